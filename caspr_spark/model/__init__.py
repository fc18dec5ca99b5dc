"""The CASPR transformer (paper, section 5): torch only, so that scoring needs neither Spark nor Petastorm."""
