"""Profiles on disk, in memory, and as arithmetic."""
