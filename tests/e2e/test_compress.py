"""zen compress as its user runs it: sizes that are kept, kinds that are chosen, distillation, and a run that was stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from zen_mlx.cli.main import main
from zen_mlx.codec.factor import FactorPart
from zen_mlx.codec.parts import SignPart
from zen_mlx.format.layout import arrays_of
from zen_mlx.format.read import read, read_header
from zen_mlx.paths import profile_path, run_dir, zen_home

ROWS = [
    {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "abc " * (i % 4 + 2)}]}
    for i in range(30)
]


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with another weight everywhere: of low rank in one layer, noise in the other; and another norm."""
    folder = tmp_path_factory.mktemp("ft") / "tuned"
    shutil.copytree(tiny_model, folder)
    rng = np.random.default_rng(0)
    weights = dict(mx.load(str(folder / "model.safetensors")).items())
    for name, array in weights.items():
        if name.endswith("_proj.weight"):
            n, k = array.shape
            change = 0.03 * rng.standard_normal((n, 2)) @ rng.standard_normal((2, k))
            if "layers.1" in name:
                change = 0.02 * rng.standard_normal((n, k))
            weights[name] = (array + mx.array(change.astype(np.float32))).astype(array.dtype)
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, dict[str, Any]]:
    code = main(["compress", *map(str, args), "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


@pytest.mark.parametrize("rate", [0.9, 1.4, 2.5, 4.0])
def test_the_whole_file_fits(
    rate: float, tuned: Path, tiny_model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = run(capsys, tuned, "--profile", "p", "-m", tiny_model, "--bits-per-weight", rate, "--valid", data)
    assert code == 0
    assert report["bits_per_weight"] <= rate
    assert 8 * Path(report["path"]).stat().st_size <= rate * report["parameter_count"]
    profile = read(profile_path(zen_home(), "p"))
    assert "model.norm.weight" in profile.tensors
    low = [part for name, t in profile.tensors.items() if "layers.0" in name for part in t.parts]
    assert all(isinstance(part, FactorPart) for part in low)
    if rate >= 2.5:
        assert any(isinstance(p, SignPart) for n, t in profile.tensors.items() if "layers.1" in n for p in t.parts)


def test_planes_by_importance(tuned: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, tuned, "--profile", "p", "-m", tiny_model, "--bits-per-weight", 3, "--scale", "row")
    assert code == 0
    assert report["bits_per_weight"] <= 3
    planes = {len(t.parts) for n, t in read(profile_path(zen_home(), "p")).tensors.items() if "proj" in n}
    assert planes <= {1, 2, 3, 4}
    assert len(planes) > 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--bits-per-weight", "1.2", "--planes", "2"], "leave out --planes"),
        (["--bits-per-weight", "0.02"], "too few bits"),
        (["--bits-per-weight", "0.8", "--scale", "row"], "leave out --scale"),
        (["--bits-per-weight", "7"], "0.02 to 4"),
        (["--planes", "9"], "1 to 4"),
        (["--resume"], "only a distillation"),
        (["--sweep", "x.png"], "--valid"),
    ],
)
def test_what_cannot_be_is_refused(
    args: list[str], words: str, tuned: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", str(tuned), "--profile", "p", "-m", str(tiny_model), *args]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not profile_path(zen_home(), "p").exists()


def test_distilling(tuned: Path, tiny_model: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [tuned, "-m", tiny_model, "--planes", "1", "--valid", data]
    assert run(capsys, "--profile", "plain", *common)[0] == 0
    code, report = run(
        capsys, "--profile", "better", *common, "--distill", data, "--steps", 60, "--babble", 4, "--labels", 0
    )
    assert code == 0
    assert not run_dir(zen_home(), "better").exists()
    names = [str(profile_path(zen_home(), name)) for name in ("plain", "better")]
    plain, better = (read_header(Path(name)) for name in names)
    assert plain.file_bytes == pytest.approx(better.file_bytes, abs=256)
    assert report["metrics"]["profile_loss"] == better.metrics["profile_loss"]
    assert abs(better.metrics["profile_loss"] - better.metrics["reference_loss"]) < abs(
        plain.metrics["profile_loss"] - plain.metrics["reference_loss"]
    )


@pytest.mark.parametrize("line", ["what the fine-tune says", "step 1/120"])
def test_a_stopped_distillation_goes_on(
    line: str, tuned: Path, tiny_model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["compress", str(tuned), "-m", str(tiny_model), "--distill", str(data), "--steps", "120", "--babble", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "zen_mlx", *args, "--profile", "p"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stderr is not None
    folder = run_dir(zen_home(), "p")
    said = ""
    while line not in said and (more := process.stderr.readline()):
        said += more
    process.send_signal(signal.SIGINT)
    said += process.communicate()[1]
    assert process.returncode == 130, said
    assert "secret" not in said
    assert "--resume" in said
    assert folder.stat().st_mode & 0o077 == 0
    assert main([*args, "--profile", "p"]) == 2
    assert main([*args[:-4], "--steps", "121", "--profile", "p", "--resume"]) == 2
    assert main([*args, "--profile", "p", "--resume"]) == 0
    assert main([*args, "--profile", "whole"]) == 0
    one, two = (read(profile_path(zen_home(), name)) for name in ("p", "whole"))
    for name, tensor in one.tensors.items():
        for part, other in zip(tensor.parts, two.tensors[name].parts, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(arrays_of(part), arrays_of(other), strict=True))
    assert not folder.exists()


def test_the_sweep(
    tuned: Path, tiny_model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curve.png"
    code, document = run(capsys, tuned, "--profile", "any", "-m", tiny_model, "--valid", data, "--sweep", picture)
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert not profile_path(zen_home(), "any").exists()
    kinds = {point["kind"] for point in document["points"]}
    assert {"any kind", "sign alone", "factor alone"} < kinds
    assert any("LoRA" in kind for kind in kinds)
