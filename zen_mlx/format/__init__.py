"""The `.bitdelta` file: bytes <-> named arrays, checked as if every file were hostile."""
