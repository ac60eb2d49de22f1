"""config.json of any age -> one that mlx-lm reads as transformers means it.

transformers 5 keeps the rope in `rope_parameters` and has renamed fields; mlx-lm reads `rope_theta`, `rope_scaling` and the
old names, and takes a default of its own where they are missing. transformers' own configuration class says what a folder
means: old and new spelling, defaults, aliases. A family that transformers does not know is read as it is written.
Source: transformers 5.24, `modeling_rope_utils.RotaryEmbeddingConfigMixin` and the `attribute_map` of each configuration.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import logging
from collections.abc import Iterator
from typing import Any

from ..fsio import Json
from . import omni

# mlx-lm's name of a field -> where transformers has it, for names that its own attribute maps lack.
_ALIASES = {"n_ctx": "n_positions", "num_experts": "num_local_experts", "num_local_experts": "num_experts"}
_THETA = ("rope_theta", "rotary_emb_base")
_PARTIAL = ("partial_rotary_factor", "rotary_pct")
_NOT_READ = ("quantization", "quantization_config", "auto_map", "rope_scaling_note")


def for_mlx(config: Json) -> Json:
    """`config` with every field that mlx-lm's arguments have, as transformers means it. An omni model's: of its text part."""
    out = dict(config)
    text = config.get("text_config")
    if isinstance(text, dict) and isinstance(text.get("model_type"), str):
        out["text_config"] = for_mlx(text)
    meant = meaning(config)
    if meant is None:
        return out | _rope(_written_rope(config), out)
    out |= {key: value for key in _fields(config) if (value := _missing(key, out, meant)) is not None}
    return out | _rope(rope_parameters(config), out)


def meaning(config: Json) -> Any:
    """transformers' configuration of `config`, None where it does not know the family or refuses the values."""
    return _meaning(json.dumps({key: value for key, value in config.items() if key not in _NOT_READ}, sort_keys=True))


@functools.lru_cache(maxsize=16)
def _meaning(text: str) -> Any:
    config = json.loads(text)
    with _quiet():
        from transformers import CONFIG_MAPPING

        try:
            return CONFIG_MAPPING[config["model_type"]].from_dict(config)
        except Exception:  # a family it lacks, or a value its own validation refuses: mlx-lm's to judge
            return None


def rope_parameters(config: Json) -> Json:
    """transformers 5's `rope_parameters` of `config`: one table, or one for each type of layer; {} for none."""
    found = getattr(meaning(config), "rope_parameters", None)
    return copy.deepcopy(found) if isinstance(found, dict) else _written_rope(config)


def by_layer_type(parameters: Json) -> bool:
    """Whether `rope_parameters` has a table for each type of layer."""
    return bool(parameters) and all(isinstance(value, dict) or value is None for value in parameters.values())


def _written_rope(config: Json) -> Json:
    found = config.get("rope_parameters")
    if isinstance(found, dict):
        return found
    scaling = config.get("rope_scaling")
    table = dict(scaling) if isinstance(scaling, dict) else {}
    theta = next((config[key] for key in _THETA if config.get(key) is not None), None)
    return table | ({} if theta is None else {"rope_theta": theta})


def _rope(parameters: Json, config: Json) -> Json:
    """The fields by which mlx-lm's families know a rope."""
    if not parameters:
        return {}
    full, sliding = parameters, None
    if by_layer_type(parameters):
        sliding = parameters.get("sliding_attention")
        full = parameters.get("full_attention") or sliding or next(filter(None, parameters.values()), {})
    out: Json = {} if not by_layer_type(parameters) else {"rope_parameters": parameters}
    if full.get("rope_theta") is not None:
        out |= dict.fromkeys(_THETA, full["rope_theta"])
    if full.get("partial_rotary_factor") is not None:
        out |= dict.fromkeys(_PARTIAL, full["partial_rotary_factor"])
    if sliding is not None and sliding.get("rope_theta") is not None:
        out["rope_local_base_freq"] = sliding["rope_theta"]
    return out | {"rope_scaling": _scaling(full, config)}


def _scaling(table: Json, config: Json) -> Json | None:
    kind = table.get("rope_type") or table.get("type") or "default"
    if kind == "default" or "mrope_section" in table:
        # For text the position streams of a multimodal rope are equal, which is the ordinary one.
        return None
    kept = {key: value for key, value in table.items() if key not in (*_THETA, *_PARTIAL) and value is not None}
    length = config.get("original_max_position_embeddings")
    return (
        ({} if length is None else {"original_max_position_embeddings": length})
        | kept
        | {"type": kind, "rope_type": kind}
    )


def _missing(key: str, config: Json, meant: Any) -> Any:
    """The value of a field that `config` does not write, None where it does or where nobody says."""
    if config.get(key) is not None or key in ("model_type", "text_config", "rope_parameters", "rope_scaling"):
        return None
    value = getattr(meant, key, None)
    if value is None and key in _ALIASES:
        value = getattr(meant, _ALIASES[key], None)
    return value if isinstance(value, bool | int | float | str | list) else None


def _fields(config: Json) -> list[str]:
    """The names of mlx-lm's arguments for this family."""
    from mlx_lm import utils

    try:
        arguments = utils._get_classes(omni.plain_config(config))[1]
    except ValueError:
        return []
    return [field.name for field in dataclasses.fields(arguments)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers' advice about PyTorch and odd values is not for a person at this program."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
