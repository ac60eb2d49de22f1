"""zen train, compress and eval through the command line, on a tiny llama in a folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from zen_mlx.cli.main import main

ZEN = [sys.executable, "-m", "zen_mlx"]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 259,
    "max_position_embeddings": 256,
    "eos_token_id": 256,
}
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REPORT_KEYS = {
    "profile",
    "path",
    "file_bytes",
    "parameter_count",
    "bits_per_weight",
    "ratio_fp32",
    "ratio_fp16",
    "seconds",
    "peak_memory_bytes",
    "metrics",
}


def _save(folder: Path, shift: float = 0.0) -> Path:
    folder.mkdir()
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs(**{k: v for k, v in CONFIG.items() if k != "eos_token_id"}))
    noise = mx.random.key(1)
    weights = {
        name: value + shift * mx.random.normal(value.shape, key=noise)
        for name, value in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, special=True) for token in ("<end>", "<|user|>", "<|assistant|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(_save(tmp_path / "base"))


@pytest.fixture
def rows(tmp_path: Path) -> str:
    file = tmp_path / "rows.jsonl"
    row = '{"prompt": "say %d", "completion": "it is %d"}\n'
    file.write_text("".join(row % (n, n) for n in range(50)))
    return str(file)


def _json(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> dict:
    assert main([*args, "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_train_then_eval_then_plot(base: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["train", rows, "--profile", "mine", "-m", base, "--steps", "3", "--batch-size", "4"]
    report = _json(capsys, *args)
    assert set(report) >= REPORT_KEYS
    assert {"base_loss", "profile_loss", "reference_loss"} <= set(report["metrics"])
    assert report["file_bytes"] == Path(report["path"]).stat().st_size
    assert _json(capsys, *args, code=2)["error"]["type"] == "ProfileExistsError"
    assert main([*args, "--replace"]) == 0
    out, err = capsys.readouterr()
    assert "bits per weight" in out
    assert "2 held out" in err
    assert "Next: zen chat -p mine" in err
    plot = tmp_path / "losses.png"
    found = _json(capsys, "eval", rows, "-m", base, "-p", "mine", "--limit", "5", "--plot", str(plot))
    assert [row["profile"] for row in found["results"]] == [None, "mine"]
    assert found["data"]["examples"] == 5
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_compress_measures_and_names_the_worst_layers(
    base: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = str(_save(tmp_path / "tuned", 0.01))
    args = ["compress", tuned, "--profile", "tuned", "-m", base, "--valid", rows]
    report = _json(capsys, *args)
    assert set(report) >= REPORT_KEYS
    assert report["metrics"]["reference_loss"] is not None
    assert main([*args, "--replace", "--planes", "2"]) == 0
    out = capsys.readouterr().out
    assert "energy kept" in out
    assert "gain kept" in out
    found = _json(capsys, "eval", rows, "-m", base, "-p", "tuned", "--reference", tuned, "--limit", "5")
    assert found["reference"]["path"] == tuned
    assert found["results"][1]["retention"] is not None


def test_an_interrupted_run_exits_130_and_resumes(base: str, rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["train", rows, "--profile", "mine", "-m", base, "--steps", "400", "--batch-size", "4", "--valid", "none"]
    child = subprocess.Popen([*ZEN, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("step "):
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "--resume continues from there" in err
    assert "Traceback" not in err
    assert _json(capsys, *args, code=2)["error"]["hint"].startswith("--resume")
    args[args.index("400")] = "500"
    assert _json(capsys, *args, "--resume", code=2)["error"]["type"] == "ResumeMismatchError"
