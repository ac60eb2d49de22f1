"""One function per table of docs/benchmarks.md; no printing."""
