"""Compressing opens each model once and reads one tensor of each at a time: neither is ever whole in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zen_mlx.base.build import build
from zen_mlx.encode.lazy_weights import lazy_reader
from zen_mlx.errors import ModelNotFoundError
from zen_mlx.interop import import_profile
from zen_mlx.manager import ZenPersonalizationManager
from zen_mlx.recipes import finetune

SCRIPT = """
import resource, sys
from zen_mlx.manager import ZenPersonalizationManager
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
import mlx_lm.models.llama, mlx.core as mx
mx.eval(mx.zeros(8))
before = peak()
ZenPersonalizationManager("smollm2-135m").compress_profile("tuned", sys.argv[1])
print(peak() - before)
"""


def test_memory_stays_below_one_of_the_two_models(with_embedded_base: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    shutil.copytree(with_embedded_base, tuned)
    weights = load_file(tuned / "model.safetensors")
    name = "model.layers.3.mlp.up_proj.weight"
    weights[name] = weights[name] + np.float32(0.01)
    save_file(weights, tuned / "model.safetensors")
    model_bytes = (tuned / "model.safetensors").stat().st_size
    del weights
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(tuned)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 0.9 * model_bytes


@pytest.fixture
def tuned(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with other projections."""
    folder = tmp_path / "tuned"
    shutil.copytree(tiny_model, folder)
    file = str(folder / "model.safetensors")
    mx.random.seed(3)
    weights = {
        name: (array + 0.02 * mx.random.normal(array.shape)).astype(array.dtype) if "proj" in name else array
        for name, array in mx.load(file).items()
    }
    mx.eval(weights)
    mx.save_safetensors(file, weights, metadata={"format": "mlx"})
    return folder


def test_a_pair_of_checkpoints_is_opened_once(tiny_model: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counted(folder: Path) -> Any:
        opened.append(folder.name)
        return build(folder)

    for module in (finetune, import_profile):
        monkeypatch.setattr(module, "build", counted)
    manager = ZenPersonalizationManager(str(tiny_model))
    stages: list[str] = []
    manager.compress_profile(
        "p", str(tuned), bits_per_weight=3.0, on_event=lambda event: stages.append(getattr(event, "name", ""))
    )
    assert {"weighing the layers", "compressing"} <= set(stages), "every tensor is read twice"
    assert opened == [tiny_model.name, tuned.name]


def test_what_mlx_reads_is_read_again(tiny_model: Path) -> None:
    models = [build(folder) for folder in (tiny_model, tiny_model)]
    names, once = lazy_reader(models[0])
    _, often = lazy_reader(models[1], again=lambda: build(tiny_model))
    del models
    first = [once(name) for name in names]
    with pytest.raises(KeyError):
        once(names[0])
    for name, wanted in [*zip(names, first, strict=True), *reversed(list(zip(names, first, strict=True)))]:
        assert np.array_equal(often(name), wanted)


@pytest.mark.parametrize("name", ["no-such-folder", "./no/such", "/no/such"])
def test_a_fine_tune_that_is_not_there_is_named_as_one(tiny_model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="fine-tuned") as caught:
        ZenPersonalizationManager(str(tiny_model), home=tmp_path).compress_profile("new", name)
    assert (caught.value.field, caught.value.found) == ("finetuned", name)
    assert "adapter folder" in str(caught.value.expected)
