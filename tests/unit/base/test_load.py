"""What `load_base` returns: dtypes by device, quantized copies, mixture-of-experts, the omni text part."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_moe

from zen_mlx.base.fingerprint import fingerprint
from zen_mlx.base.load import load_base, load_model, load_tokenizer
from zen_mlx.base.loaded import base_info, describe
from zen_mlx.base.quantize import quantize
from zen_mlx.data.examples import Example
from zen_mlx.data.tokens import tokenize
from zen_mlx.errors import ConfigError, InputError, ModelFormatError, ModelNotFoundError
from zen_mlx.paths import base_dir

ON_CPU = mx.default_device().type == mx.DeviceType.cpu
TOKENS = mx.array([[1, 2, 3, 4, 5]])


def dtypes(model: Any) -> set[mx.Dtype]:
    return {value.dtype for _, value in tree_flatten(model.parameters())}


def test_half_precision_becomes_f32_on_the_cpu(tiny_model: Path) -> None:
    model, _ = load_base(tiny_model)
    assert dtypes(model) == ({mx.float32} if ON_CPU else {mx.bfloat16})
    assert not model.training


def test_unknown_name_is_not_found() -> None:
    with pytest.raises(ModelNotFoundError):
        load_base("no-such-model")
    with pytest.raises(ModelNotFoundError):
        quantize("no-such-model", 4)


def test_describe_needs_the_model_here() -> None:
    with pytest.raises(ModelNotFoundError, match="not on this machine") as caught:
        describe("zen-nano")
    assert caught.value.hint == "zen models pull zen-nano"


def test_quantized_copy(tiny_model: Path) -> None:
    folder = quantize(str(tiny_model), 4, 32)
    assert folder == base_dir("tiny-llama-4bit-g32")
    info = base_info("tiny-llama-4bit-g32")
    assert info.model == "tiny-llama-4bit-g32"
    assert info.quantization is not None
    assert (info.quantization["bits"], info.quantization["group_size"]) == (4, 32)
    source = fingerprint(tiny_model)
    assert info.derived_from == source.weights != info.weights
    assert info.tokenizer == source.tokenizer

    model, _ = load_base("tiny-llama-4bit-g32")
    dense, _ = load_base(tiny_model)
    assert dtypes(model) == ({mx.uint32, mx.float32} if ON_CPU else {mx.uint32, mx.bfloat16})
    error = mx.abs(model(TOKENS) - dense(TOKENS)).max() / mx.abs(dense(TOKENS)).max()
    assert error.item() < 0.3

    stamp = (folder / "config.json").stat().st_mtime_ns
    assert quantize(str(tiny_model), 4, 32) == folder
    assert (folder / "config.json").stat().st_mtime_ns == stamp, "made once"
    assert not list(folder.parent.glob("*.tmp"))
    with pytest.raises(InputError, match="already quantized"):
        quantize("tiny-llama-4bit-g32", 4)


def test_quantize_again_when_the_source_changed(tiny_model: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_model, tmp_path / "mine"))
    folder = quantize(str(source), 8)
    first = base_info("mine-8bit")
    weights = {name: value * 2 for name, value in mx.load(str(source / "model.safetensors")).items()}
    mx.eval(weights)
    mx.save_safetensors(str(source / "model.safetensors"), weights)
    assert quantize(str(source), 8) == folder
    second = base_info("mine-8bit")
    assert second.derived_from == fingerprint(source).weights != first.derived_from
    assert second.weights != first.weights


@pytest.mark.parametrize(("bits", "group"), [(1, 64), (7, 64), (0, 64), (4, 16), (4, 63)])
def test_quantize_refuses_what_mlx_lacks(tiny_model: Path, bits: int, group: int) -> None:
    with pytest.raises(ConfigError):
        quantize(str(tiny_model), bits, group)


def test_quantize_prints_nothing(tiny_model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quantize(str(tiny_model), 3, 64)
    assert capfd.readouterr() == ("", "")


MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "vocab_size": 258,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    "eos_token_id": 257,
}


def checkpoint_weights() -> dict[str, mx.array]:
    """Random qwen3_moe weights as a checkpoint stores them: one tensor per expert."""
    mx.random.seed(3)
    model = qwen3_moe.Model(qwen3_moe.ModelArgs.from_dict(MOE))
    out = {}
    for name, value in tree_flatten(model.parameters()):
        if ".switch_mlp." in name:
            for expert in range(MOE["num_experts"]):
                out[name.replace("switch_mlp", f"experts.{expert}")] = value[expert]
        else:
            out[name] = value
    return out


def write(folder: Path, tiny_model: Path, config: dict[str, Any], weights: dict[str, mx.array]) -> Path:
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_model / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


@pytest.fixture
def moe(tiny_model: Path, tmp_path: Path) -> Path:
    return write(tmp_path / "moe", tiny_model, MOE, checkpoint_weights())


@pytest.fixture
def omni(tiny_model: Path, tmp_path: Path) -> Path:
    weights = {f"thinker.{name}": value for name, value in checkpoint_weights().items()}
    other = {
        "thinker.audio_tower.conv1.weight": mx.ones((8, 8)),
        "thinker.visual.blocks.0.attn.qkv.weight": mx.ones((8, 8)),
        "talker.model.layers.0.mlp.gate.weight": mx.ones((8, 8)),
        "code2wav.decoder.0.conv.weight": mx.ones((8, 8)),
    }
    text = {key: value for key, value in MOE.items() if key not in ("architectures", "eos_token_id")}
    text["model_type"] = "qwen3_omni_moe_text"
    text["rope_scaling"] = {"mrope_section": [8, 4, 4], "rope_type": "default", "type": "default"}
    config = {
        "model_type": "qwen3_omni_moe",
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "thinker_config": {"model_type": "qwen3_omni_moe_thinker", "text_config": text, "audio_config": {}},
        "talker_config": {"text_config": {"hidden_size": 32}},
        "code2wav_config": {},
    }
    return write(tmp_path / "omni", tiny_model, config, {**weights, **other})


def test_mixture_of_experts(moe: Path) -> None:
    model, _ = load_base(moe)
    assert model.model.layers[0].mlp.switch_mlp.gate_proj.weight.shape == (4, 64, 64)
    assert model(TOKENS).shape == (1, 5, 258)


def test_omni_text_part_is_the_plain_model(moe: Path, omni: Path) -> None:
    expected = load_model(moe)(TOKENS)
    found = load_model(omni)(TOKENS)
    assert mx.array_equal(found, expected)
    assert fingerprint(omni).weights == fingerprint(moe).weights


def test_omni_says_what_is_left_out(moe: Path, omni: Path) -> None:
    (note,) = base_info(str(omni)).notes
    assert "text part" in note
    assert base_info(str(moe)).notes == ()


def test_omni_quantized_is_a_plain_model(omni: Path, moe: Path) -> None:
    folder = quantize(str(omni), 8)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen3_moe"
    assert "talker_config" not in config
    close = mx.abs(load_model(folder)(TOKENS) - load_model(moe)(TOKENS)).max()
    assert close.item() < 0.05
    assert base_info("omni-8bit").notes == ()


def test_omni_without_a_text_part(omni: Path) -> None:
    (omni / "config.json").write_text(json.dumps({"model_type": "qwen3_omni_moe"}))
    with pytest.raises(ModelFormatError, match="no text part"):
        load_base(omni)


def test_an_end_of_turn_that_only_tokenizer_json_calls_special(tiny_model: Path, tmp_path: Path) -> None:
    """It is supervised, and decoding stops at it."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {key: settings[key] for key in ("tokenizer_class", "chat_template")}
    (folder / "tokenizer_config.json").write_text(json.dumps({**kept, "eos_token": "<|im_start|>"}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 256}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token_ids == {256, 257}
    assert tokenizer.eos_token_id == 256
    (row,) = tokenize([Example("rows:1", messages=(("user", "one"), ("assistant", "1")))], tokenizer, 64)
    assert [token for token, counts in zip(row.ids, row.supervised, strict=True) if counts][-1] == 257


def test_a_word_behind_an_answer_is_no_end(tiny_model: Path, tmp_path: Path) -> None:

    folder = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }} over\n{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    assert load_tokenizer(folder).eos_token_ids == {257}
