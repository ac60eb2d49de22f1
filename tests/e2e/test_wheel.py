"""An installed wheel computes: the parity suite's smallest cases against it, so that a file it lacks is found."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
KERNEL_FILES = [*REPOSITORY.glob("metal_kernels/*"), *REPOSITORY.glob("cuda_kernels/*")]

# Runs pytest with the wheel's package in front of an editable install.
RUN = """
import sys, pathlib, pytest, zen_mlx
package, *arguments = sys.argv[1:]
assert pathlib.Path(zen_mlx.__file__).is_relative_to(package), zen_mlx.__file__
from zen_mlx.kernels import sources
assert not (pathlib.Path(package) / "metal_kernels").exists()
sys.exit(pytest.main(arguments))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as `pip install --target` lays it out."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_every_kernel_file_is_in_the_wheel(installed: Path) -> None:
    assert KERNEL_FILES
    for path in KERNEL_FILES:
        copy = installed / "zen_mlx" / path.relative_to(REPOSITORY)
        assert copy.read_bytes() == path.read_bytes()


def test_the_wheel_says_that_it_is_typed(installed: Path) -> None:
    assert (installed / "zen_mlx" / "py.typed").is_file()


def test_the_installed_package_computes(installed: Path, tmp_path: Path) -> None:
    """One small case of every kernel, and the merges."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    try:
        from parity.cases import MATMULS, MERGES, covering
    finally:
        sys.path.pop(0)
    suite = REPOSITORY / "tests" / "parity" / "test_kernel_parity.py"
    smallest = [min((c for c in covering() if c.kernel == k and c.m), key=lambda c: c.m * c.n * c.k) for k in MATMULS]
    tests = [f"{suite}::test_case[{case.id}]" for case in smallest]
    tests += [f"{suite}::test_merge[{kernel}-f32-rowcol]" for kernel in MERGES]
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(REPOSITORY), "-c", str(REPOSITORY / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(installed), *options, *tests],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
