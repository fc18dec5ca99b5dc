"""The network: encoders, pooling, and heads. torch only, so that scoring needs neither Spark nor Petastorm."""
