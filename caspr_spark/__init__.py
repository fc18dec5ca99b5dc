"""caspr-spark: from raw customer tables to customer embeddings, on Spark."""

__version__ = "0.1.0"
