"""caspr-spark: from raw customer tables to customer embeddings, on Spark."""

import os

# Threads that wait for one another must not spin: where other processes want the same cores (Spark's, a second worker),
# training with two threads was measured six times slower, scoring three times. Read when torch is loaded, so set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
