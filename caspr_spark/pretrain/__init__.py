"""Stage pretrain: sequences -> checkpoint. Petastorm feeds torch; Horovod, torch DDP or one process train."""
