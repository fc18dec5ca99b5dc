"""Entry points: one spark-submit file a step, and the caspr-spark command."""
