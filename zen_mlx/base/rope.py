"""The rope that a configuration asks for, and the proof that the built model has it.

A rope is its angles for one position, inverse frequencies f[i] of the i-th pair of dimensions, and one factor on x:
default      f[i] = base ** (-2 i / d)
linear       f[i] / factor
llama3, yarn a blend of both by wavelength; yarn has a factor of 1 + 0.1 ln(factor)
longrope     f[i] / long[i]; the factor is sqrt(1 + ln(stretch) / ln(original length))
d is the head's size times the partial factor. Source: transformers 5.24, `modeling_rope_utils.ROPE_INIT_FUNCTIONS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelFormatError
from ..fsio import Json
from .dialect import by_layer_type, meaning, rope_parameters

if TYPE_CHECKING:
    import mlx.core as mx

TOLERANCE = 1e-4
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class Rope:
    """angles: f32 [d / 2], radians of one position. factor: on queries and keys alike."""

    angles: np.ndarray
    factor: float

    def is_close(self, other: Rope) -> bool:
        """Whether both turn the same dimensions by the same angles."""
        return self.angles.shape == other.angles.shape and bool(
            np.allclose(self.angles, other.angles, rtol=TOLERANCE, atol=0)
            and math.isclose(self.factor, other.factor, rel_tol=TOLERANCE)
        )


def check_rope(model: Any, config: Json, folder: Path) -> None:
    """`ModelFormatError` where a rope of the built `model` is not what config.json means by it."""
    for path, module in built_ropes(model):
        table = table_of(config, path)
        wanted = expected(table, config, module)
        if wanted is not None and not wanted.is_close(found := built(module)):
            raise ModelFormatError(
                "mlx-lm builds this model with another rope than its configuration says",
                path=folder / "config.json",
                field="rope_parameters",
                expected=_words(wanted, table),
                found=f"{_words(found, {})} in {path}",
                hint="this family's rope of this kind is not supported; take another base",
            )


def built_ropes(model: Any) -> Iterator[tuple[str, Any]]:
    """(path, module) of everything in `model` that turns queries and keys."""
    import mlx.nn as nn

    for path, module in model.named_modules():
        if isinstance(module, nn.RoPE) or getattr(module, "_freqs", None) is not None:
            yield path, module


def built(module: Any) -> Rope:
    """What an mlx-lm rope module computes."""
    freqs = getattr(module, "_freqs", None)
    if freqs is None:
        return Rope(module.scale * _angles(module.dims, module.base), 1.0)
    return Rope(1 / np.array(freqs, np.float32), float(getattr(module, "mscale", getattr(module, "_scale", 1.0))))


def expected(table: Json, config: Json, module: Any = None) -> Rope | None:
    """The rope that `table` of `rope_parameters` asks for; None for a kind that is not known here.

    Where transformers does not know the family, only the built `module` tells how many dimensions it turns.
    """
    base, make = table.get("rope_theta"), _KINDS.get(kind_of(table))
    dims = _dims(table, config) or (2 * len(built(module).angles) if module is not None else None)
    if base is None or make is None or dims is None:
        return None
    return make(_angles(dims, base), base, table, config)


def kind_of(table: Json) -> str:
    """The rope's type; multimodal ropes are plain for text."""
    kind = str(table.get("rope_type") or table.get("type") or "default")
    return "default" if "mrope_section" in table else kind


def _angles(dims: int, base: float) -> np.ndarray:
    return (float(base) ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)).astype(np.float32)


def _dims(table: Json, config: Json) -> int | None:
    """Dimensions of a head that are turned, None where transformers does not know the family."""
    meant = meaning(config)
    if meant is None:
        return None
    meant = meant.get_text_config()
    whole = getattr(meant, "qk_rope_head_dim", None) or getattr(meant, "rotary_dim", None)
    if whole:
        return int(whole)
    size = getattr(meant, "head_dim", None) or meant.hidden_size // meant.num_attention_heads
    return int(size * (table.get("partial_rotary_factor") or 1.0))


def table_of(config: Json, path: str) -> Json:
    """The table of `rope_parameters` for the layer that the module at `path` lies in; {} for none."""
    said = rope_parameters(config)
    if not by_layer_type(said):
        return said
    types = getattr(meaning(config), "layer_types", None) or []
    at = _LAYER.search(path)
    kind = types[int(at[1])] if at and int(at[1]) < len(types) else "full_attention"
    return said.get(kind) or {}


def freqs_of(rope: Rope) -> mx.array:
    """`rope` as mlx-lm's modules hold it: wavelengths over 2 pi."""
    import mlx.core as mx

    return mx.array(1 / rope.angles)


def _plain(angles: np.ndarray, base: float, table: Json, config: Json) -> Rope:
    return Rope(angles, 1.0)


def _linear(angles: np.ndarray, base: float, table: Json, config: Json) -> Rope:
    return Rope(angles / np.float32(table.get("factor", 1.0)), 1.0)


def _llama3(angles: np.ndarray, base: float, table: Json, config: Json) -> Rope:
    length, factor = table["original_max_position_embeddings"], table["factor"]
    low, high = table["low_freq_factor"], table["high_freq_factor"]
    turns = length * angles / (2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return Rope(((1 - share) * angles / factor + share * angles).astype(np.float32), 1.0)


def _yarn(angles: np.ndarray, base: float, table: Json, config: Json) -> Rope:
    dims, factor = 2 * len(angles), table["factor"]
    length = _original_length(table, config)

    def place(turns: float) -> float:
        return dims * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = place(table.get("beta_fast") or 32), place(table.get("beta_slow") or 1)
    if table.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = np.clip((np.arange(len(angles)) - low) / ((high - low) or 0.001), 0, 1)
    return Rope((angles / factor * ramp + angles * (1 - ramp)).astype(np.float32), _yarn_factor(table))


def _yarn_factor(table: Json) -> float:
    if table.get("attention_factor") is not None:
        return float(table["attention_factor"])

    def stretch(by: float) -> float:
        return 0.1 * by * math.log(table["factor"]) + 1.0 if table["factor"] > 1 else 1.0

    if table.get("mscale") and table.get("mscale_all_dim"):
        return stretch(table["mscale"]) / stretch(table["mscale_all_dim"])
    return stretch(1.0)


def _longrope(angles: np.ndarray, base: float, table: Json, config: Json) -> Rope:
    length = _original_length(table, config)
    factor = config.get("max_position_embeddings", length) / length
    scale = table.get("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0
    return Rope(angles / np.array(table["long_factor"], np.float32), float(scale))


def _original_length(table: Json, config: Json) -> int:
    found = table.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return int(found or config["max_position_embeddings"])


_KINDS = {
    "default": _plain,
    "dynamic": _plain,  # within the length that the model was trained with
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _words(rope: Rope, table: Json) -> str:
    kind = f"{table.get('rope_type', 'default')} with base {table.get('rope_theta')}: " if table else ""
    last = float(rope.angles[-1]) if len(rope.angles) else 0.0
    return f"{kind}{2 * len(rope.angles)} dimensions, the last by {last:.4g} a position, factor {rope.factor:.4g}"
