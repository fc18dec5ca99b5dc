"""The CASPR transformer (paper, section 5): torch only, so that scoring needs neither Spark nor Petastorm."""

import os

# Threads that wait for one another must not spin: where other processes want the same cores (Spark's, a second worker),
# training with two threads was measured six times slower, scoring three times. Read when torch is loaded, so set here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
