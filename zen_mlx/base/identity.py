"""The two digests of a base beside those of its weights and vocabulary: how it computes, and how its text is cut.

function   = SHA-256 of the canonical JSON of mlx-lm's arguments for the folder, as transformers means its configuration,
             without those that equal the family's default or that change no number (lengths, ids, packing); the rope as its
             angles; the activation under one name.
text_rules = SHA-256 of the canonical JSON {"normalizer", "pre_tokenizer", "post_processor"} of tokenizer.json.
The same function in the words of transformers 4 and 5, with a default written or left out, has one digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from ..fsio import Json
from . import dialect, families, omni, rope, validate
from .build import mlx_config, plain_config

_ROPE = {"rope_theta", "rope_scaling", "rope_parameters", "rotary_emb_base", "rotary_pct", "partial_rotary_factor"}
_ROPE |= {"rope_local_base_freq", "rope_traditional"}
_NO_NUMBER = {"vocab_size", "max_position_embeddings", "original_max_position_embeddings", "n_ctx", "n_positions"}
_NO_NUMBER |= {"tie_word_embeddings", "quantization", "quantization_config", "hidden_act", "hidden_activation"}
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function")
_RULES = ("normalizer", "pre_tokenizer", "post_processor")


def function_digest(folder: Path) -> str:
    """The digest of what config.json makes of the weights."""
    return _digest(function_of(folder))


def text_rules_digest(folder: Path) -> str:
    """The digest of what is done to text before and after the vocabulary."""
    tokenizer = validate.read_json(folder / "tokenizer.json")
    return _digest({key: None if _does_nothing(tokenizer.get(key)) else tokenizer[key] for key in _RULES})


def _does_nothing(rule: Any) -> bool:
    """Whether `rule` is absent, or the template without a token that transformers 5 writes where there was none."""
    if not isinstance(rule, dict) or rule.get("type") != "TemplateProcessing":
        return not rule
    ids = [[next(iter(piece.values())).get("id") for piece in rule.get(key) or []] for key in ("single", "pair")]
    return not rule.get("special_tokens") and ids == [["A"], ["A", "B"]]


def function_of(folder: Path) -> Json:
    """What the digest is of: arguments, rope and activation."""
    plain = plain_config(folder)
    return {
        "arguments": _arguments(mlx_config(folder), plain),
        "rope": _ropes(plain),
        "activation": _activation(plain),
    }


def _arguments(config: Json, plain: Json) -> Json:
    """mlx-lm's arguments but for those that are the family's defaults, those of the rope, and those that change no number."""
    from mlx_lm import utils

    made: Any = utils._get_classes(omni.plain_config(config))[1].from_dict(config)
    values = {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if field.name not in _ROPE | _NO_NUMBER and getattr(made, field.name) != field.default
    }
    return {key: _canonical(value) for key, value in values.items()} | {"model_type": plain["model_type"]}


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(each) for key, each in value.items() if key not in _ROPE | _NO_NUMBER}
    if isinstance(value, list | tuple):
        return [_canonical(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical(dataclasses.asdict(value))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _ropes(config: Json) -> Any:
    """The rope of all layers, or of each type of layer where they differ."""
    said = dialect.rope_parameters(config)
    if not dialect.by_layer_type(said):
        return _rope(said, config)
    used = set(getattr(dialect.meaning(config), "layer_types", None) or said)
    found = {kind: _rope(table, config) for kind, table in said.items() if kind in used and table}
    return next(iter(found.values())) if len({str(each) for each in found.values()}) == 1 else found


def _rope(table: Json, config: Json) -> Any:
    if not table:
        return None
    known = rope.expected(table, config)
    if known is None:
        return _canonical(
            {key: value for key, value in table.items() if value is not None} | {"kind": rope.kind_of(table)}
        )
    out: Json = {"angles": [f"{angle:.5g}" for angle in known.angles.tolist()], "factor": f"{known.factor:.5g}"}
    if rope.kind_of(table) == "dynamic":
        out |= {"stretch": _canonical(table.get("factor"))}
    return out | {key: _canonical(table[key]) for key in ("short_factor",) if key in table}


def _activation(config: Json) -> str | None:
    meant = dialect.meaning(config)
    for key in _ACTIVATIONS:
        name = getattr(meant, key, None) or config.get(key)
        if isinstance(name, str):
            return families.one_name(name)
    return None


def _digest(value: Json) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
