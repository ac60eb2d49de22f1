"""GGUF -> folder: names, row order, dequantized values, tokenizer; a damaged file is a `ModelFormatError`."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

from zen_mlx.base import gguf
from zen_mlx.base.load import load_base
from zen_mlx.errors import ModelFormatError, StorageError

HIDDEN, HEADS, KV_HEADS, INNER, HEAD_DIM = 64, 2, 1, 96, 32
SPECIAL = ["<|end|>"]


def permute(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's own order: RoPE halves to RoPE pairs."""
    return (
        values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    )


def tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (258, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HEADS * HEAD_DIM),
        "blk.0.ffn_gate.weight": (INNER, HIDDEN),
        "blk.0.ffn_up.weight": (INNER, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, INNER),
    }
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def write(
    path: Path,
    values: dict[str, np.ndarray],
    *,
    architecture: str = "llama",
    change: Callable[[GGUFWriter], Any] | None = None,
    pre: str = "smollm",
    merges: tuple[str, ...] = ("a b",),
    kind: GGMLQuantizationType | None = None,
) -> Path:
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    from tokenizers.pre_tokenizers import ByteLevel

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*SPECIAL, "ab", *sorted(ByteLevel.alphabet())])
    writer.add_token_merges(list(merges))
    writer.add_token_types([3] + [1] * 257)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    if change is not None:
        change(writer)
    for name, value in values.items():
        if kind is not None and value.ndim == 2:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_names_rows_and_config(tmp_path: Path) -> None:
    values = tensors()
    stored = {
        **values,
        "blk.0.attn_q.weight": permute(values["blk.0.attn_q.weight"], HEADS),
        "blk.0.attn_k.weight": permute(values["blk.0.attn_k.weight"], KV_HEADS),
    }
    folder = gguf.convert(write(tmp_path / "m.gguf", stored), tmp_path / "model")
    found = load_file(folder / "model.safetensors")
    assert np.array_equal(found["model.layers.0.self_attn.q_proj.weight"], values["blk.0.attn_q.weight"])
    assert np.array_equal(found["model.layers.0.self_attn.k_proj.weight"], values["blk.0.attn_k.weight"])
    assert np.array_equal(found["model.layers.0.mlp.down_proj.weight"], values["blk.0.ffn_down.weight"])
    assert {value.dtype for value in found.values()} == {np.dtype(np.float32)}
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_theta"] == 50000.0
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] is True
    model, tokenizer = load_base(folder)
    assert model.layers[0].self_attn.n_heads == HEADS
    assert tokenizer.eos_token_ids == {0}
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"


def test_untied_head_is_kept(tmp_path: Path) -> None:
    values = {**tensors(), "output.weight": np.ones((258, HIDDEN), np.float32)}
    folder = gguf.convert(write(tmp_path / "m.gguf", values), tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert "lm_head.weight" in load_file(folder / "model.safetensors")


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q4_0])
def test_quantized_values_are_the_librarys(tmp_path: Path, kind: GGMLQuantizationType) -> None:
    values = tensors()
    folder = gguf.convert(write(tmp_path / "m.gguf", values, kind=kind), tmp_path / "model")
    expected = dequantize(quantize(values["blk.0.ffn_up.weight"], kind), kind)
    found = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert np.array_equal(found, expected)
    assert np.abs(found - values["blk.0.ffn_up.weight"]).max() < 0.05


def refuse(path: Path, target: Path, match: str) -> None:
    with pytest.raises(ModelFormatError, match=match) as caught:
        gguf.convert(path, target)
    assert caught.value.path == str(path)
    assert not target.exists()
    assert not list(target.parent.glob(".*")), "nothing half-made is left"


def test_other_architecture(tmp_path: Path) -> None:
    refuse(write(tmp_path / "m.gguf", tensors(), architecture="qwen2"), tmp_path / "model", "llama-architecture")


def test_unknown_tokenizer(tmp_path: Path) -> None:
    refuse(write(tmp_path / "m.gguf", tensors(), pre="exotic"), tmp_path / "model", "unknown GGUF tokenizer")


@pytest.mark.parametrize("merge", ["a c", "a", "a b c", "zz a"])
def test_merge_outside_the_vocabulary(tmp_path: Path, merge: str) -> None:
    refuse(write(tmp_path / "m.gguf", tensors(), merges=(merge,)), tmp_path / "model", "contradicts itself")


def test_bad_token_number(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", tensors(), change=lambda writer: writer.add_pad_token_id(258))
    refuse(path, tmp_path / "model", "outside the vocabulary")


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "layer"])
def test_tensors_that_are_not_the_models(tmp_path: Path, change: str) -> None:
    values = tensors()
    if change == "missing":
        del values["blk.0.ffn_up.weight"]
    elif change == "extra":
        values["rope_freqs.weight"] = np.ones(4, np.float32)
    elif change == "shape":
        values["output_norm.weight"] = np.ones(HIDDEN + 1, np.float32)
    else:
        values["blk.1.attn_norm.weight"] = np.ones(HIDDEN, np.float32)
    refuse(write(tmp_path / "m.gguf", values), tmp_path / "model", "tensor")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.999])
def test_truncated(tmp_path: Path, part: float) -> None:
    path = write(tmp_path / "m.gguf", tensors())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refuse(path, tmp_path / "model", "GGUF")


def test_not_there_and_not_gguf(tmp_path: Path) -> None:
    refuse(tmp_path / "absent.gguf", tmp_path / "model", "GGUF")
    (tmp_path / "text.gguf").write_text("hello " * 100)
    refuse(tmp_path / "text.gguf", tmp_path / "model", "GGUF")


def test_written_tokenizer_is_what_the_library_writes(embedded_base: Path) -> None:
    from tokenizers import Tokenizer

    text = (embedded_base / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(Tokenizer.from_str(text).to_str()) == json.loads(text)


def test_disk_that_refuses(tmp_path: Path) -> None:
    """A write fails in the middle of the weights: a typed error and nothing left."""
    path = write(tmp_path / "m.gguf", tensors())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            gguf.convert(path, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
