"""Stage embed: sequences and a checkpoint -> one vector a customer, on the executors."""
