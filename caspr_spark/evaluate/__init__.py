"""Scores of the embeddings on tasks with a temporal cut-off, against a plain baseline."""
