"""`import zen_mlx` brings MLX a fast BLAS on Linux without a GPU, quickly, and says so when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zen_mlx import blas

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is chosen on Linux only")

SHOW = """
import dataclasses, json
from zen_mlx import blas
print(json.dumps(dataclasses.asdict(blas.status())))
"""


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_here() -> bool:
    return bool(json.loads(run(SHOW))["loaded"])


def test_import_is_quick_and_brings_no_mlx() -> None:
    out = run("""
import sys, time
start = time.perf_counter()
import zen_mlx
print(time.perf_counter() - start)
assert not {"mlx", "mlx.core", "transformers", "numpy"} & set(sys.modules)
""")
    assert float(out) < 0.3  # 0.04 s on an idle machine


def test_products_go_to_it(tmp_path: Path) -> None:
    out = run(
        """
import json, pathlib
from zen_mlx import blas
from zen_mlx.bench.machine import matmul_gflops
speed = matmul_gflops()
maps = [line.split()[-1] for line in pathlib.Path("/proc/self/maps").read_text().splitlines() if ".so" in line]
print(json.dumps([blas.status().loaded, blas.status().path, speed, sorted(set(maps))]))
""",
        TMPDIR=str(tmp_path),
    )
    loaded, path, speed, maps = json.loads(out)
    if not loaded:
        pytest.skip("no fast BLAS on this machine")
    assert path is None or any(Path(name).name == Path(path).name for name in maps)
    assert speed > 15, "the reference BLAS does 2 to 6; OpenBLAS 180 when nothing else runs"
    assert not list(tmp_path.iterdir()), "the folder that brings the library its runtime is gone again"


def test_the_result_is_the_same_product() -> None:
    run("""
import zen_mlx
import mlx.core as mx, numpy as np
a = np.random.default_rng(0).normal(size=(33, 65)).astype(np.float32)
b = np.random.default_rng(1).normal(size=(65, 17)).astype(np.float32)
assert np.abs(np.array(mx.array(a) @ mx.array(b)) - a.astype(np.float64) @ b).max() < 1e-4
""")


def test_many_processes_at_once(tmp_path: Path) -> None:
    expected = loaded_here()
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    children = [
        subprocess.Popen([sys.executable, "-c", SHOW], stdout=subprocess.PIPE, text=True, env=env) for _ in range(6)
    ]
    assert [json.loads(child.communicate(timeout=60)[0])["loaded"] for child in children] == [expected] * 6
    assert not list(tmp_path.iterdir())


def test_mlx_imported_first_is_said_loudly() -> None:
    if not loaded_here():
        pytest.skip("no fast BLAS on this machine")
    out = run("""
import warnings
import mlx.core
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import zen_mlx
from zen_mlx import blas
(warning,) = caught
assert warning.category is blas.ImportOrderWarning and issubclass(warning.category, RuntimeWarning)
assert "import zen_mlx first" in str(warning.message)
assert not blas.status().loaded
print("ok")
""")
    assert out == "ok\n"


def test_nothing_found_says_what_to_install() -> None:
    out = json.loads(run("import sys; sys.modules['ngsolve_openblas'] = None\n" + SHOW))
    if out["loaded"]:
        assert out["name"] in ("OpenBLAS", "MKL", "preloaded")
    else:
        assert "ngsolve-openblas" in out["reason"]


def test_a_broken_library_is_a_reason_not_a_crash(tmp_path: Path) -> None:
    package = tmp_path / "ngsolve_openblas"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('never imported')\n")
    (package / "libopenblasp-r9.so").write_bytes(b"not a library")
    out = json.loads(run(SHOW, PYTHONPATH=str(tmp_path)))
    if not out["loaded"]:
        assert "ngsolve-openblas" in out["reason"]


@pytest.mark.parametrize(
    ("files", "reason"), [(["mlx_cuda_13-0.32.4.dist-info"], "CUDA"), (["mlx_cuda_12-0.32.4.dist-info"], "CUDA")]
)
def test_cuda_build_is_left_alone(tmp_path: Path, files: list[str], reason: str) -> None:
    (tmp_path / "mlx").mkdir()
    for name in ("__init__.py", "core.so"):
        (tmp_path / "mlx" / name).touch()
    for name in files:
        (tmp_path / name).mkdir()
    out = json.loads(run(SHOW, PYTHONPATH=str(tmp_path)))
    assert not out["loaded"]
    assert reason in out["reason"]


def test_a_folder_called_mlx_where_it_is_started_is_not_mlx(tmp_path: Path) -> None:
    (tmp_path / "mlx").mkdir()
    assert bool(json.loads(run(SHOW, PYTHONPATH=str(tmp_path)))["loaded"]) == loaded_here()


def test_status_is_stable() -> None:
    assert blas.status() is blas.load() is blas.status()
