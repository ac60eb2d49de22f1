"""The fields and tensors of a llama-architecture GGUF file; tensors in f32 under the names of mlx-lm and transformers.

llama.cpp stores the rows of q_proj and k_proj in pairs (2i, 2i+1) for its RoPE; here they are put back to halves
(i, i + head_dim/2).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...errors import ModelFormatError
from ...fsio import Json

_T = TypeVar("_T")
# What GGUFReader and the dequantizers raise when bytes are missing or senseless.
DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, MemoryError, OSError, struct.error)


def open_reader(source: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(source)
    except DAMAGE as error:
        raise ModelFormatError("not a readable GGUF file", path=source, found=str(error)) from error


class Fields:
    """The key-value part of a GGUF file; a missing or mistyped key is a `ModelFormatError`."""

    def __init__(self, source: Path, reader: Any) -> None:
        self.source = source
        self._reader = reader

    def get(self, key: str, kind: type[_T] | tuple[type[_T], ...]) -> _T | None:
        """The value of `key`, None when absent."""
        field = self._reader.get_field(key)
        if field is None:
            return None
        try:
            value = field.contents()
        except DAMAGE as error:
            raise ModelFormatError("unreadable GGUF field", path=self.source, field=key, found=str(error)) from error
        if not isinstance(value, kind):
            raise ModelFormatError("a GGUF field is mistyped", path=self.source, field=key, found=type(value).__name__)
        return value

    def need(self, key: str, kind: type[_T] | tuple[type[_T], ...]) -> _T:
        value = self.get(key, kind)
        if value is None:
            raise ModelFormatError("a GGUF field is missing", path=self.source, field=key)
        return value


_LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def read_weights(source: Path, reader: Any, config: Json) -> dict[str, np.ndarray]:
    from gguf.quants import dequantize

    shapes = _shapes(config)
    weights: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        name = _name(source, tensor.name)
        try:
            values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except (*DAMAGE, NotImplementedError) as error:
            raise ModelFormatError("unreadable tensor", path=source, field=tensor.name, found=str(error)) from error
        if name in shapes and values.shape != shapes[name]:
            raise ModelFormatError(
                "GGUF tensor of the wrong shape",
                path=source,
                field=tensor.name,
                expected=shapes[name],
                found=values.shape,
            )
        if name.endswith("q_proj.weight"):
            values = unpermute(values, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            values = unpermute(values, config["num_key_value_heads"])
        weights[name] = values
    missing = sorted((shapes.keys() - {"lm_head.weight"}) - weights.keys())
    extra = sorted(weights.keys() - shapes.keys())
    if missing or extra:
        raise ModelFormatError(
            "the tensors in the GGUF file are not exactly the model's",
            path=source,
            field=(missing or extra)[0],
            expected=f"{len(shapes) - 1} or {len(shapes)} tensors",
            found=f"{len(missing)} missing, {len(extra)} unknown",
        )
    return weights


def unpermute(values: np.ndarray, heads: int) -> np.ndarray:
    """out[h, j, i] = values[h, i, j] with rows [heads, head_dim/2, 2]: RoPE pairs back to RoPE halves."""
    rows = values.shape[0]
    return np.ascontiguousarray(
        values.reshape(heads, rows // heads // 2, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


def _name(source: Path, name: str) -> str:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    head, _, rest = name.partition(".")
    number, _, tail = rest.partition(".")
    if head != "blk" or not number.isdecimal() or tail not in _LAYER_NAMES:
        raise ModelFormatError("unknown GGUF tensor", path=source, field=name)
    return f"model.layers.{int(number)}.{_LAYER_NAMES[tail]}"


def _shapes(config: Json) -> dict[str, tuple[int, ...]]:
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    layer = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (query, hidden),
        "self_attn.k_proj.weight": (key, hidden),
        "self_attn.v_proj.weight": (key, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "mlp.gate_proj.weight": (inner, hidden),
        "mlp.up_proj.weight": (inner, hidden),
        "mlp.down_proj.weight": (hidden, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for number in range(config["num_hidden_layers"]):
        shapes.update({f"model.layers.{number}.{name}": shape for name, shape in layer.items()})
    return shapes
