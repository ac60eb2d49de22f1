"""Signs, scales, factors and rows as NumPy arrays: a delta before it is bytes. Knows nothing about files or models."""
