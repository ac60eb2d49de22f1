"""Profiles on disk and in memory, and arithmetic on them."""
