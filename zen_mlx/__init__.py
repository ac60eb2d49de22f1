"""Private, personal language models on your own machine: one frozen base, many one-bit profiles."""

from . import blas

blas.load()
