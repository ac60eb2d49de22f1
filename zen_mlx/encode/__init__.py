"""Encoding a delta into the parts of a profile, under a byte budget."""
