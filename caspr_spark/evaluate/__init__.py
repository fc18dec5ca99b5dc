"""Stage evaluate: what a vector knows of the future, next to hand-made features, on customers held out."""
