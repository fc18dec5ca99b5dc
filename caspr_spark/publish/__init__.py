"""Stage publish: one run's vectors become rows of the feature table that readers see."""
