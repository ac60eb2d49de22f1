"""llama-architecture GGUF files as models that mlx-lm and transformers load."""

from .convert import convert, write_folder

__all__ = ["convert", "write_folder"]
