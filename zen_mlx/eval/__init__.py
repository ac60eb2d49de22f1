"""Numbers and plots about profiles; no printing."""
