"""llama-architecture GGUF -> a folder that mlx-lm and transformers load: f32 weights, config, tokenizer.

Weights are dequantized with NumPy in f32, so the result is the same bytes on every machine.
Raises `ModelFormatError` for a damaged file, another architecture or a tokenizer this reader does not know.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ... import fsio
from ...errors import ModelFormatError, StorageError
from ...fsio import Json
from .tokenizer import tokenizer_files
from .weights import Fields, open_reader, read_weights


def convert(source: Path, target: Path) -> Path:
    """Publish the model of the GGUF file `source` as the folder `target`; all of it or nothing."""
    with fsio.publish(target, folder=True, mode=0o755) as folder:
        write_folder(source, folder)
    return target


def write_folder(source: Path, folder: Path) -> None:
    """Write config.json, generation_config.json, tokenizer files and model.safetensors of `source` into `folder`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    reader = open_reader(source)
    fields = Fields(source, reader)
    config = _config(fields)
    tokenizer, tokenizer_config = tokenizer_files(fields, config)
    weights = read_weights(source, reader, config)
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


def _config(fields: Fields) -> Json:
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
    config: Json = {
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
