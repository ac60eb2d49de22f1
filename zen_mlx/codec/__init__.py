"""Signs, scales, factors and rows on NumPy arrays: what a delta is before it is bytes. Knows nothing about files or models."""
