"""Private, personal language models on your own machine: one frozen base, many one-bit profiles."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import blas

if TYPE_CHECKING:
    from .base.load import load_base
    from .config import BitDeltaConfig
    from .manager import ZenPersonalizationManager, apply_bitdelta, download_profile, load_profile

__all__ = [
    "BitDeltaConfig",
    "ZenPersonalizationManager",
    "apply_bitdelta",
    "download_profile",
    "load_base",
    "load_profile",
]

_HOMES = {"BitDeltaConfig": "config", "load_base": "base.load"}

blas.load()


def __getattr__(name: str) -> Any:
    """The public names, imported at first use: `import zen_mlx` alone brings neither mlx nor transformers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'manager')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
