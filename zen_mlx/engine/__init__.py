"""Decoding: one prompt, or a conversation with a cache."""
