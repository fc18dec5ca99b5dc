"""Stage pretrain: sequences -> checkpoint. Petastorm feeds torch; Horovod, torch DDP or one process train."""

import caspr_spark.model  # noqa: F401 (says how threads wait; it must come before torch is loaded)
