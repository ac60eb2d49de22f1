"""Compressing reads one tensor of each model at a time: neither model is ever whole in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

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
