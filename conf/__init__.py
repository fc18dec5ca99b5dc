"""Configuration: base.yaml is complete, each other file overlays it for one dataset or cluster."""
