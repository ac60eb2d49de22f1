"""Decoding: one prompt, or a conversation with a KV cache."""
