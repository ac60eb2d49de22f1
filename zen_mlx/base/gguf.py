"""llama-architecture GGUF -> a folder that mlx-lm and transformers load: f32 weights, config, tokenizer.

Weights are dequantized with NumPy in f32, so the result is the same bytes on every machine. llama.cpp stores the rows
of q_proj and k_proj in pairs (2i, 2i+1) for its RoPE; here they are put back to halves (i, i + head_dim/2).
Raises `ModelFormatError` for a damaged file, another architecture or a tokenizer this reader does not know.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .. import fsio
from ..errors import ModelFormatError, StorageError

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
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL]},
    "gpt-2": _BYTE_LEVEL,
}
# What GGUFReader and the dequantizers raise when bytes are missing or senseless.
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, MemoryError, OSError, struct.error)


def convert(source: Path, target: Path) -> Path:
    """Publish the model of the GGUF file `source` as the folder `target`; all of it or nothing."""
    with fsio.publish(target, folder=True, mode=0o755) as folder:
        write_folder(source, folder)
    return target


def write_folder(source: Path, folder: Path) -> None:
    """Write config.json, generation_config.json, tokenizer files and model.safetensors of `source` into `folder`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    reader = _open(source)
    fields = _Fields(source, reader)
    config = _config(fields)
    tokenizer, tokenizer_config = _tokenizer(fields, config)
    weights = _weights(source, reader, config)
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    for name, value in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # what the Rust writer makes of every operating system error
        raise StorageError("the weights cannot be written", path=folder, found=str(error)) from error


def _open(source: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(source)
    except _DAMAGE as error:
        raise ModelFormatError("not a readable GGUF file", path=source, found=str(error)) from error


class _Fields:
    """The key-value part of a GGUF file; a missing or mistyped key is a `ModelFormatError`."""

    def __init__(self, source: Path, reader: Any) -> None:
        self.source = source
        self._reader = reader

    def get(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """The value of `key`, None when absent."""
        field = self._reader.get_field(key)
        if field is None:
            return None
        try:
            value = field.contents()
        except _DAMAGE as error:
            raise ModelFormatError("unreadable GGUF field", path=self.source, field=key, found=str(error)) from error
        if not isinstance(value, kind):
            raise ModelFormatError(
                "GGUF field of the wrong type", path=self.source, field=key, found=type(value).__name__
            )
        return value

    def need(self, key: str, kind: type | tuple[type, ...]) -> Any:
        value = self.get(key, kind)
        if value is None:
            raise ModelFormatError("a GGUF field is missing", path=self.source, field=key)
        return value


def _config(fields: _Fields) -> dict[str, Any]:
    architecture = fields.need("general.architecture", str)
    if architecture != "llama":
        raise ModelFormatError(
            "only llama-architecture GGUF files are read",
            path=fields.source,
            field="general.architecture",
            expected="llama",
            found=architecture,
        )
    heads = fields.need("llama.attention.head_count", int)
    hidden = fields.need("llama.embedding_length", int)
    if heads < 1 or hidden % heads:
        raise ModelFormatError(
            "head count does not divide the hidden size",
            path=fields.source,
            expected=f"a divisor of {hidden}",
            found=heads,
        )
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": fields.need("llama.feed_forward_length", int),
        "num_hidden_layers": fields.need("llama.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", int) or heads,
        "head_dim": fields.get("llama.rope.dimension_count", int) or hidden // heads,
        "vocab_size": len(fields.need("tokenizer.ggml.tokens", list)),
        "max_position_embeddings": fields.need("llama.context_length", int),
        "rope_theta": fields.get("llama.rope.freq_base", float) or 10000.0,
        "rms_norm_eps": float(str(np.float32(fields.need("llama.attention.layer_norm_rms_epsilon", float)))),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
    }
    for key, name in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")):
        value = fields.get(f"tokenizer.ggml.{key}_token_id", int)
        if value is not None:
            config[name] = value
    return config


def _tokenizer(fields: _Fields, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """tokenizer.json and tokenizer_config.json. Written out by hand: the bytes do not depend on a library's version."""
    kind = fields.need("tokenizer.ggml.model", str)
    pre = fields.get("tokenizer.ggml.pre", str) or "gpt-2"
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ModelFormatError(
            "unknown GGUF tokenizer",
            path=fields.source,
            field="tokenizer.ggml.model",
            expected=f"gpt2 with {' or '.join(_PRE_TOKENIZERS)}",
            found=f"{kind} with {pre}",
        )
    tokens: list[str] = fields.need("tokenizer.ggml.tokens", list)
    types: list[int] = fields.need("tokenizer.ggml.token_type", list)
    merges = [merge.split(" ") for merge in fields.need("tokenizer.ggml.merges", list)]
    known = set(tokens)
    sound = all(len(merge) == 2 and known.issuperset((*merge, "".join(merge))) for merge in merges)
    if not sound or len(types) != len(tokens) or len(known) != len(tokens):
        raise ModelFormatError(
            "the GGUF vocabulary contradicts itself", path=fields.source, field="tokenizer.ggml.tokens"
        )
    control, user_defined = 3, 4
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == control,
        }
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (control, user_defined)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    tokenizer_config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
    }
    for key, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        number = fields.get(f"tokenizer.ggml.{key}_token_id", int)
        if number is not None:
            if not 0 <= number < len(tokens):
                raise ModelFormatError(
                    "token number outside the vocabulary",
                    path=fields.source,
                    field=f"tokenizer.ggml.{key}_token_id",
                    expected=f"0 to {len(tokens) - 1}",
                    found=number,
                )
            tokenizer_config[f"{name}_token"] = tokens[number]
    template = fields.get("tokenizer.chat_template", str)
    if template is not None:
        tokenizer_config["chat_template"] = template
    return tokenizer, tokenizer_config


def _weights(source: Path, reader: Any, config: dict[str, Any]) -> dict[str, np.ndarray]:
    from gguf.quants import dequantize

    shapes = _shapes(config)
    weights: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        name = _name(source, tensor.name)
        try:
            values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except (*_DAMAGE, NotImplementedError) as error:
            raise ModelFormatError(
                "unreadable GGUF tensor", path=source, field=tensor.name, found=str(error)
            ) from error
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
            "the GGUF file does not hold exactly the model's tensors",
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


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
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
