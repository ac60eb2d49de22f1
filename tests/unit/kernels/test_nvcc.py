"""The CUDA kernels compile for every target without warnings or spills, and the matvec's hot loop stays lean.

A covering set of forms, one translation unit a file. Compiled by the nvcc of this environment (the extra `nvcc`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

import nvcc
import sass_count

from zen_mlx.kernels.cuda import CudaForm

HALF, BF16, F32 = mx.float16, mx.bfloat16, mx.float32

UNITS = {
    "matvec": [
        sass_count.DECODE,
        CudaForm("matvec", 2, row=True, slots=True, x=HALF, y=HALF),
        CudaForm("matvec", row=True, col=True, block=True, slots=True, base=True, x=F32, y=F32),
    ],
    "mma": [
        CudaForm("mma", 2, row=True, base=True, x=BF16, y=BF16),
        CudaForm("mma", row=True, block=True, slots=True, base=True, x=HALF, y=HALF),
        CudaForm("mma", row=True, slots=True, x=HALF, y=HALF, tiles=4),
        CudaForm("mma", row=True, base=True, x=BF16, y=F32, terms=True),
        CudaForm("mma", row=True, block=True, slots=True, base=True, x=BF16, y=F32, tiles=2, terms=True, own_x=True),
    ],
    "split": [
        CudaForm("split", col=True, slots=True, x=BF16, y=BF16),
        CudaForm("split", x=HALF, y=HALF),
        CudaForm("split", col=True, x=F32, y=F32),
    ],
    "unpack": [
        CudaForm("unpack", block=True),
        CudaForm("unpack"),
        CudaForm("merge", row=True, col=True, block=True, base=True, x=BF16, y=BF16),
        CudaForm("merge", row=True, base=True, x=F32, y=F32),
    ],
}


@pytest.fixture(scope="module")
def home() -> Path:
    found = nvcc.toolkit()
    if found is None:
        pytest.skip("nvcc is not installed: the extra `nvcc` brings it")
    return found


@pytest.mark.parametrize("file", UNITS)
def test_compiles_for_every_target(file: str, home: Path) -> None:
    """Warnings are errors, and no kernel spills."""
    built = nvcc.compiled(nvcc.unit(UNITS[file]), home)
    found = nvcc.resources(built.log)
    assert len(found) == len(UNITS[file]) * len(nvcc.TARGETS)
    assert {each.target for each in found} == {f"sm_{target}" for target in nvcc.TARGETS}
    for each in found:
        assert each.spill_bytes == 0, each


@pytest.mark.parametrize("target", nvcc.TARGETS)
def test_instructions_a_weight(target: int, home: Path) -> None:
    lines = nvcc.sass(nvcc.compiled(nvcc.unit(UNITS["matvec"]), home).binary, home, target)
    [decode] = [each for name, each in lines.items() if nvcc.cuda_text.text(sass_count.DECODE).name in name]
    aligned, any_rows = sass_count.hot_loops(decode)
    assert aligned.a_weight <= sass_count.LIMIT
    assert any_rows.a_weight <= 1.05 * sass_count.LIMIT
    assert aligned.selected == any_rows.selected == sass_count.WEIGHTS_A_PASS


def test_signs_enter_the_tensor_cores(home: Path) -> None:
    """16 rows by 512 columns by 8 rows of x are 32 instructions HMMA.16816; two such tiles a pass, one loop for any x."""
    lines = nvcc.sass(nvcc.compiled(nvcc.unit(UNITS["mma"]), home).binary, home, 90)
    [single] = [each for name, each in lines.items() if nvcc.cuda_text.text(UNITS["mma"][2]).name in name]
    assert sum("HMMA.16816.F32" in line for line in single) == 2 * 4 * 64


def _loop(body: list[str]) -> list[str]:
    """SASS lines of a loop around `body`."""
    lines = [f"        /*{16 * i:04x}*/  {text} ;" for i, text in enumerate(body)]
    return [
        *lines,
        f"        /*{16 * len(body):04x}*/  @P0 BRA 0x0 ;",
        f"        /*{16 * len(body) + 16:04x}*/  EXIT ;",
    ]


def test_counts_every_instruction_of_the_loop() -> None:
    lean = hot = ["@P1 FADD R1, R2, R1"] * sass_count.WEIGHTS_A_PASS
    [loop] = sass_count.hot_loops(_loop(lean))
    assert loop.instructions.total() == sass_count.WEIGHTS_A_PASS + 1
    [loop] = sass_count.hot_loops(_loop(hot + ["LOP3.LUT R3, R3, 0x1, RZ, 0xc0, !PT"] * sass_count.WEIGHTS_A_PASS))
    assert loop.a_weight > sass_count.LIMIT
    assert not sass_count.hot_loops(_loop(["FADD R1, R2, R1"] * sass_count.WEIGHTS_A_PASS))


def test_one_file_a_unit() -> None:
    with pytest.raises(ValueError, match="two files"):
        nvcc.unit([UNITS["matvec"][0], UNITS["mma"][0]])


def test_what_the_compiler_says_reaches_the_caller(home: Path) -> None:
    with pytest.raises(RuntimeError, match="never referenced"):
        nvcc.compiled("__global__ void f() { int unused; }", home, (90,))
