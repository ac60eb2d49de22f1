"""Decoding: one engine for one answer and for many, conversations, and a backend for apps."""
