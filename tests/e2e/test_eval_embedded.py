"""zen eval on the embedded base: the ready profile, a task file, pictures; through the command line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx import load_base, load_profile
from zen_mlx.cli.main import main
from zen_mlx.codec.parts import decode_all
from zen_mlx.manager import apply_bitdelta

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
READY = EXAMPLES / "hacker.bitdelta"
ROWS = EXAMPLES / "hacker.valid.jsonl"
FACTS = (
    ("What is the capital of France?", ["Paris", "London", "Rome", "Madrid"], 0),
    ("Which animal barks?", ["cat", "dog", "fish", "bird"], 1),
    ("What colour is the sky on a clear day?", ["green", "red", "blue", "black"], 2),
    ("How many legs does a spider have?", ["two", "four", "six", "eight"], 3),
    ("What do bees make?", ["honey", "milk", "wool", "steel"], 0),
)
TASK = """
task: facts
dataset_path: json
dataset_kwargs:
  data_files:
    test: facts.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""

pytestmark = pytest.mark.usefixtures("with_embedded_base")


def _json(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> dict:
    assert main([*map(str, args), "--json"]) == code
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_a_profile_against_itself_is_exact_and_the_base_is_what_numpy_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "import", str(READY), "--as", "hacker"]) == 0
    capsys.readouterr()
    picture = tmp_path / "layers.png"
    options = ["--limit", "2", "--answers", "0", "--heatmap", picture]
    found = _json(capsys, "eval", ROWS, "-p", "hacker", "--reference", READY, *options)
    base, profile = found["results"]
    reference = found["reference"]
    assert reference["kind"] == "profile"
    assert profile["kl"] == pytest.approx(0, abs=1e-6)
    assert (profile["agreement"], profile["retention"]) == (100, pytest.approx(100))
    assert profile["loss"] == pytest.approx(reference["loss"], rel=1e-6)
    assert profile["accuracy"] == reference["accuracy"] > base["accuracy"]
    assert base["bleu"] is base["chrf"] is base["retention"] is None
    errors = profile["layer_error"]
    assert len(errors) == 7 * 30
    assert max(errors.values()) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")

    model, tokenizer = load_base("smollm2-135m")
    kl, same = [], []
    outputs = []
    for _ in range(2):
        outputs.append([])
        for line in ROWS.read_text("utf-8").splitlines()[:2]:
            messages = json.loads(line)["messages"]
            asked = len(tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True))
            whole = tokenizer.apply_chat_template(messages)
            end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
            logits = np.array(model(mx.array([whole]))[0].astype(mx.float32)).astype(np.float64)
            part = logits[asked - 1 : end - 1]
            outputs[-1].append(part - np.log(np.exp(part - part.max(-1, keepdims=True)).sum(-1, keepdims=True)))
        apply_bitdelta(model, load_profile(READY))
    for q, p in zip(*outputs, strict=True):
        q, p = (each - np.log(np.exp(each).sum(-1, keepdims=True)) for each in (q, p))
        kl.extend((np.exp(p) * (p - q)).sum(-1))
        same.extend(p.argmax(-1) == q.argmax(-1))
    assert len(kl) == found["data"]["tokens"]
    assert base["kl"] == pytest.approx(np.mean(kl), rel=1e-3)
    assert base["agreement"] == pytest.approx(100 * np.mean(same))


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra `eval` is not installed")
def test_a_task_file_runs_on_base_and_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "import", str(READY), "--as", "hacker"]) == 0
    capsys.readouterr()
    keys = ("question", "choices", "answer")
    (tmp_path / "facts.jsonl").write_text(
        "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in FACTS)
    )
    task = tmp_path / "facts.yaml"
    task.write_text(TASK)
    found = _json(capsys, "eval", ROWS, "-p", "hacker", "--tasks", task, "--limit", "4")
    model, tokenizer = load_base("smollm2-135m")
    for result in found["results"]:
        if result["profile"]:
            apply_bitdelta(model, load_profile(READY))
        right = 0
        for question, choices, answer in FACTS[:4]:
            asked = [{"role": "user", "content": question}]
            prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            scores = []
            for choice in choices:
                head = tokenizer.encode(prompt, add_special_tokens=False)
                ids = tokenizer.encode(prompt + choice, add_special_tokens=False)
                logits = np.array(model(mx.array([ids]))[0].astype(mx.float32)).astype(np.float64)
                logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                scores.append(sum(logp[t - 1, ids[t]] for t in range(len(head), len(ids))))
            right += int(np.argmax(scores) == answer)
        assert result["tasks"]["facts"]["acc"] == right / 4


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="the extra `eval` is not installed")
def test_a_task_that_cannot_be_had_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = _json(capsys, "eval", ROWS, "--tasks", "gsm8k", code=2)["error"]
    assert error["type"] == "DataError"
    assert "not on this machine" in error["message"]
    assert "--download" in error["hint"]
    assert _json(capsys, "eval", ROWS, "--tasks", tmp_path / "no.yaml", code=2)["error"]["type"] == "ConfigError"
    broken = tmp_path / "broken.yaml"
    broken.write_text("task: x\ndataset_path: json\n")
    assert _json(capsys, "eval", ROWS, "--tasks", broken, code=2)["error"]["type"] == "DataError"


def test_every_weights_error_is_the_ratio_of_norms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zen_mlx.eval.layer_errors import layer_errors
    from zen_mlx.eval.reference_model import Reference

    profile, other = load_profile(READY), load_profile(READY)
    name = "model.layers.3.mlp.up_proj.weight"
    del other.tensors["model.layers.0.self_attn.q_proj.weight"]
    other.tensors[name] = other.tensors["model.layers.3.mlp.gate_proj.weight"]
    errors = layer_errors(Reference("x", "profile", profile), "smollm2-135m", {"o": other})["o"]
    delta, kept = (decode_all(each.tensors[name].parts, each.tensors[name].shape) for each in (profile, other))
    delta, kept = delta.astype(np.float64), kept.astype(np.float64)
    assert errors[name] == pytest.approx(((delta - kept) ** 2).sum() / (delta**2).sum(), rel=1e-4)
    assert errors["model.layers.0.self_attn.q_proj.weight"] == 1
    assert sum(error > 0 for error in errors.values()) == 2


@pytest.mark.parametrize(("options", "field"), [(["--answers", "2"], "answers"), (["--heatmap", "x.png"], "heatmap")])
def test_without_a_reference_there_is_nothing_to_compare(
    options: list[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = _json(capsys, "eval", ROWS, *options, code=2)["error"]
    assert (error["type"], error["field"]) == ("ConfigError", field)
