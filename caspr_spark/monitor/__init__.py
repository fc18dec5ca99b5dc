"""Stage monitor: what a run's numbers say, how far its vectors moved, and the page that shows it."""
