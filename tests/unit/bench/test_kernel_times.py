"""What the kernels table holds and how it is measured: every kernel, every comparison, fair turns; no time is judged."""

from __future__ import annotations

import os
import sys
from functools import partial
from types import SimpleNamespace

import mlx.core as mx
import pytest

from zen_mlx.bench import clock, decode, kernel_times, machine, peers, tables
from zen_mlx.bench.kernel_times import plot_kernels
from zen_mlx.bench.options import Options, Shape, parse_rows, parse_shape
from zen_mlx.bench.process import in_new_process
from zen_mlx.bench.synthetic import QWEN3_4B, SMOLLM2_135M, dense_model, quantized_qwen3
from zen_mlx.errors import ConfigError, ZenError
from zen_mlx.kernels import reference
from zen_mlx.kernels.dispatch import backend

PAIR = Shape("pair", (64, 32), 96)
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 96, "head_dim": 32}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(clock, "_TURN_S", 0.001)
    for module in (clock, peers):
        monkeypatch.setattr(module, "working_set_bytes", lambda: 1 << 16)


def measured(**options):
    options = {"quick": True, "shapes": (PAIR,), "rows": (1, 3), **options}
    return kernel_times.measure(Options(**options), lambda *_: None)


def test_every_kernel_and_every_rival_at_every_number_of_rows():
    document = measured()
    assert document["copy_gb_per_s"] > 0 < document["launch_s"]
    for m in (1, 3):
        rows = [row for row in document["launches"] if row["m"] == m]
        assert {row["name"] for row in rows if row["kernel"]} == set(kernel_times.choices())
        assert {"base f32", "MLX 1-bit"} == {row["name"] for row in rows if not row["kernel"]} or backend() != "cpu"
        assert sum(row["fastest"] for row in rows) == 1
        for row in rows:
            assert row["shape"] == "64+32x96"
            assert row["seconds"] > 0
            assert row["copy_percent"] == pytest.approx(100 * row["gb_per_s"] / document["copy_gb_per_s"])
            for base in peers.base_names():
                assert (row[f"over_{base}"] is None) != row["kernel"]
    assert document["decode"] == []  # one shape was asked for


def test_a_width_no_group_of_mlx_fits_has_no_one_bit_rival():
    document = measured(shapes=(Shape("", (33,), 70),), rows=(2,))
    assert all(row["mlx_1bit_speedup"] is None for row in document["launches"])


def test_the_backends_own_kernels_are_timed(monkeypatch):
    seen = []

    def launch(x, signs, y_bases, slots):
        seen.append(([s.packed.shape for s in signs], [y.shape for y in y_bases], slots))
        return [y + 0 for y in y_bases]

    name = f"zen_mlx.kernels.{backend()}"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(KERNELS={"own": launch}))
    names = {row["name"] for row in measured(rows=(2,))["launches"]}
    assert "own" in names
    assert seen[0] == ([(1, 64, 3), (1, 32, 3)], [(2, 64), (2, 32)], None)
    # One launch for both projections, another plane at each call.
    assert len({id(planes[0].packed) for planes in kernel_times._planes(PAIR)}) == peers.distinct(4 * 3 * 96)


def test_a_backend_without_kernels_of_its_own_has_mlx(monkeypatch):
    monkeypatch.setitem(sys.modules, f"zen_mlx.kernels.{backend()}", None)
    assert "unpack" in kernel_times.choices()


def test_the_ways_of_mlx_are_the_reference():
    sign, x = kernel_times._planes(PAIR)[0][0], mx.random.normal((3, 96))
    wanted = reference.sign_matmul(x, sign.packed, row=sign.row, col=sign.col)
    for name in ("unpack", "quantized"):
        (y,) = kernel_times.choices()[name](x, [sign], [None], None)
        assert mx.allclose(y, wanted, atol=1e-5)


def test_one_bit_peer_computes_the_sign_product():
    """scales 2 and biases -1 are the signs; caught through the evaluated arrays."""
    planes, x = kernel_times._planes(PAIR), mx.random.normal((2, 96))
    found = []
    evaluate = mx.eval
    try:
        mx.eval = lambda *arrays: (found.append(arrays), evaluate(*arrays))
        peers.mlx_one_bit(planes, 96)(x).seconds(1)
    finally:
        mx.eval = evaluate
    (y, _) = found[-1][0][0]
    assert mx.allclose(y, reference.sign_matmul(x, planes[0][0].packed), atol=1e-4)


def test_turns_are_taken_one_after_the_other_and_the_slow_sit_out():
    order = []

    def contender(name, seconds):
        return clock.Contender(name, 4, lambda count: order.append((name, count)) or seconds * count)

    times = clock.race([contender("a", 1e-4), contender("b", 0.7)], 3)
    assert times == {"a": [1e-4] * 3, "b": [0.7, 0.7]}
    rounds = order[-5:]
    assert rounds == [("a", 4), ("b", 1), ("a", 4), ("b", 1), ("a", 4)]
    assert clock.ratio(times["b"], times["a"]) == pytest.approx(7000)


def test_who_is_slow_sits_out_more_rows_but_never_the_fastest(monkeypatch):
    monkeypatch.setattr(kernel_times, "_SLOW_S", 0.0)
    rows = [row for row in measured(rows=(1, 2, 3))["launches"] if row["m"] == 3]
    assert [row["kernel"] for row in rows] == [True]


def test_bytes_of_a_launch():
    """4096 x 4096, one row, bf16: 2 MiB of signs, 32 KiB of scales, 24 KiB of x, y_base and y."""
    square = Shape("", (4096,), 4096)
    assert kernel_times._bytes(square, 1, "matvec", 2) == (2 << 20) + (32 << 10) + (24 << 10)
    assert kernel_times._bytes(square, 1, "base bf16", 2) == (32 << 20) + (16 << 10)
    assert kernel_times._bytes(square, 1, "base 4-bit", 2) == (9 << 20) + (16 << 10)
    assert kernel_times._bytes(square, 1, "MLX 1-bit", 2) == (2 << 20) + (16 << 10)


def test_shapes_are_those_of_the_models():
    for label, config in ((kernel_times._SMALL, SMOLLM2_135M), (kernel_times._LARGE, QWEN3_4B)):
        size, width = config["hidden_size"], config["head_dim"]
        heads, kv = (width * config[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
        wide = config["intermediate_size"]
        wanted = {((heads, kv, kv), size), ((size,), heads), ((wide, wide), size), ((size,), wide)}
        assert {(s.outputs, s.k) for s in kernel_times.SHAPES if s.label.startswith(label)} == wanted


@pytest.mark.parametrize(("make", "modes"), [(dense_model, 3), (quantized_qwen3, 2)])
def test_decode_of_a_whole_model(make, modes):
    config = {**QWEN3_4B, **TINY}
    build = partial(make, config, dtype=mx.float32)
    rows = decode.decode_rows(decode.Subject("tiny", build, 0, modes == 3), 2, 2)
    assert [row["profile"] for row in rows] == [None, "unmerged", "merged"][:modes]
    assert rows[0]["share"] == 1
    assert all(row["tokens_per_s"] > 0 for row in rows)


def test_a_model_that_does_not_fit_is_skipped_with_its_size(monkeypatch):
    monkeypatch.setattr(decode, "memory_bytes", lambda: 1_000_000)
    rows = decode.measure_decode(True, lambda *_: None)
    assert all(row["skipped"].startswith("needs ") for row in rows)


def test_dense_model_is_of_its_dtype():
    model = dense_model({**SMOLLM2_135M, **TINY}, mx.bfloat16)
    assert model.layers[0].mlp.up_proj.weight.dtype == mx.bfloat16
    assert model(mx.array([[1, 2]])).dtype == mx.bfloat16


def test_plot(tmp_path):
    document = {**machine.describe(), "tables": {"kernels": measured(rows=(1,))}}
    plot_kernels(document, tmp_path / "new" / "kernels.png")
    assert (tmp_path / "new" / "kernels.png").read_bytes().startswith(b"\x89PNG")


def test_names_shapes_and_rows_are_checked():
    assert tables.choose([]) == list(tables.TABLES)
    assert tables.choose(["switch", "switch"]) == ["switch"]
    assert parse_shape("8+4+4x32") == Shape("", (8, 4, 4), 32)
    assert str(parse_shape("8x32")) == "8x32"
    assert parse_rows("64,1,1") == (1, 64)
    for check, text in ((parse_shape, "0x3"), (parse_shape, "1+1+1+1x3"), (parse_rows, "1,")):
        with pytest.raises(ConfigError):
            check(text)


def test_a_process_of_its_own():
    assert in_new_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        in_new_process(divmod, 7, 0)
    with pytest.raises(ZenError, match="exit code 3"):
        in_new_process(os._exit, 3)
