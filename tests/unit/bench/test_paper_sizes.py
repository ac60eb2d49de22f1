"""Table 4.1: a size computed from shapes is the size of the file that is written, to the byte."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.adapter.targets import targets
from zen_mlx.base.build import build
from zen_mlx.bench import paper_sizes
from zen_mlx.bench.paper_sizes import CODECS, dimensions, lora_bytes, measure_sizes, profile_bytes, skeleton
from zen_mlx.bench.synthetic import QWEN3_4B, random_profile
from zen_mlx.codec.factor_encode import encode_svd
from zen_mlx.codec.parts import encode_sign
from zen_mlx.format.spec import DeltaTensor, Profile
from zen_mlx.format.write import write

TINY = {**QWEN3_4B, "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 100, "vocab_size": 96}
TINY |= {"head_dim": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
MIXTURE = {**TINY, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
MIXTURE |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}


@pytest.mark.parametrize("scale", ["tensor", "row", "rowcol"])
def test_the_embedded_base(with_embedded_base: Path, tmp_path: Path, scale: str) -> None:
    model = build(with_embedded_base)
    profile = random_profile(model, "random", 1, scale)
    file = tmp_path / "random.bitdelta"
    write(profile, file)
    codec = {"tensor": "sign, tensor", "row": "sign, row", "rowcol": "sign, row x col"}[scale]
    shapes = targets(model)
    assert profile_bytes(profile, shapes, CODECS[codec](shapes)) == file.stat().st_size


@pytest.mark.parametrize("config", [TINY, MIXTURE], ids=["dense", "experts"])
@pytest.mark.parametrize("codec", [name for name in CODECS if "0.0" not in name])
def test_a_small_random_model(tmp_path: Path, config: dict, codec: str) -> None:
    model = skeleton(config)
    shapes = targets(model)
    # At these sizes a header is worth more than 0.33 bits a weight.
    layouts = paper_sizes._factors(6, shapes) if codec.startswith("factor") else CODECS[codec](shapes)
    rng = np.random.default_rng(2)
    tensors = {}
    for name, shape in shapes.items():
        delta = rng.standard_normal(shape).astype(np.float32)
        part, planes = layouts[name][0], len(layouts[name])
        if part["kind"] == "factor":
            tensors[name] = DeltaTensor(shape, (encode_svd(delta, part["groups"]),))
        else:
            tensors[name] = DeltaTensor(shape, tuple(encode_sign(delta, part["scale"], part.get("block"), planes)))
    facts = paper_sizes.facts_of("tiny", config, model)
    profile = Profile(
        info=facts.info,
        base=facts.base,
        metrics=facts.metrics,
        target_count=facts.target_count,
        model_count=facts.model_count,
        tensors=tensors,
    )
    file = tmp_path / "tiny.bitdelta"
    write(profile, file)
    assert profile_bytes(facts, shapes, layouts) == file.stat().st_size


def test_the_lora(tmp_path: Path) -> None:
    shapes = {"a.0.q.weight": (48, 64), "a.1.q.weight": (30, 64), "a.10.experts.weight": (4, 20, 64)}
    arrays = {}
    for name, (*lead, n, k) in shapes.items():
        stem = name.removesuffix("weight")
        arrays[f"{stem}lora_a"] = mx.zeros((*lead, 16, k) if lead else (k, 16), mx.float16)
        arrays[f"{stem}lora_b"] = mx.zeros((*lead, n, 16) if lead else (16, n), mx.float16)
    file = tmp_path / "adapters.safetensors"
    mx.save_safetensors(str(file), arrays)
    # The header's numbers have as many digits as the order of its tensors gives them.
    assert abs(file.stat().st_size - lora_bytes(shapes)) < 64


def test_the_paper_s_models_have_the_paper_s_sizes() -> None:
    """Published configurations; the counts are those of the models' cards."""
    found = {each.name: skeleton(each.config) for each in dimensions()}
    billions = {name: round(paper_sizes.model_count(model) / 1e9, 2) for name, model in found.items()}
    assert billions == {"Qwen3-0.6B": 0.6, "Qwen3-4B": 4.02, "Qwen2.5-7B": 7.62, "Qwen3-30B-A3B": 30.53}
    assert next(each for each in dimensions() if each.name == "Qwen3-4B").config == {
        key: QWEN3_4B[key] for key in dimensions()[1].config
    }


def test_what_the_paper_claims_and_what_a_bit_is() -> None:
    rows = {(row["model"], row["codec"]): row for row in measure_sizes()}
    four = rows["Qwen3-4B", "sign, row x col"]
    assert 35 < four["ratio_fp32"] < 36
    assert four["paper"]["ratio"] == 107
    assert rows["Qwen3-4B", "factor, 0.33"]["ratio_fp32"] > 107
    for (model, codec), row in rows.items():
        if codec.startswith("factor"):
            assert row["bits_per_weight"] <= float(codec.split(", ")[1]), (model, codec)
