"""`cuda_kernel` in the place of `mx.fast.cuda_kernel`: CUDA C++ run lane by lane on the CPU. See README.md."""

from .kernel import cuda_kernel, source_text
from .rewrite import RewriteError

__all__ = ["RewriteError", "cuda_kernel", "source_text"]
