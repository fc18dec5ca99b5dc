"""One file a step: read, call a pure function, write. `full_build` is the table of contents."""
