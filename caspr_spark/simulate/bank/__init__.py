"""An invented bank of any size that writes raw files batch by batch. Everything that it writes is synthetic."""
