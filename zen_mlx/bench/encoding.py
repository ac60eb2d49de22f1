"""Speed of encoding a fine-tuned checkpoint against its base, from disk to tensors, beside the time to read both files."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from .. import fsio
from ..adapter.targets import targets
from ..base.build import build
from ..base.stored import stored
from ..encode.closed_form import encode
from ..encode.lazy_weights import lazy_reader
from ..errors import StorageError
from ..events import Progress
from ..fsio import Json
from ..memory import peak_memory_bytes
from .options import Options
from .paper_sizes import skeleton
from .process import in_new_process
from .synthetic import QWEN3_4B, leaves

_SCALE = "row"
_LAYERS, _QUICK_LAYERS = 4, 1
_ROUNDS = 3
_POOL = (1 << 24) + 12_345
_PIECE_BYTES = 8 << 20
_WEIGHT_RMS, _DELTA_RMS = 0.02, 1e-3


def measure(options: Options, report: Progress) -> Json:
    """The table's document: one pair of bf16 checkpoints of Qwen3-4B's width with random weights, every tensor changed.

    Rounds of reading both files and encoding them, each in a process of its own, nothing of them in the page cache where
    the system lets go of it ("cold"). "read_s": all bytes, on as many threads as there are cores. "encode_s": reading
    included. "share": read_s / encode_s, median over the rounds. "peak_bytes": of the largest encoding process.
    """
    layers = options.layers or (_QUICK_LAYERS if options.quick else _LAYERS)
    config = {**QWEN3_4B, "num_hidden_layers": layers}
    return measure_pair(config, 1 if options.quick else _ROUNDS, report)


def measure_pair(config: Json, rounds: int, report: Progress) -> Json:
    """The document for a model of `config`."""
    model = skeleton(config)
    count = sum(array.size for array in leaves(model))
    with tempfile.TemporaryDirectory(prefix="zen-bench-") as folder:
        free = shutil.disk_usage(folder).free
        if 1.05 * 4 * count > free:
            expected = f"{4 * count / 1e9:.1f} GB for two checkpoints"
            raise StorageError("not enough disk space", path=folder, expected=expected, found=f"{free / 1e9:.1f} GB")
        pair = Path(folder) / "base", Path(folder) / "tuned"
        for step in write_pair(model, config, *pair):
            report("writing a pair of checkpoints", step, None)
        files = sorted(file for each in pair for file in each.glob("*.safetensors"))
        reads, encodes, peaks, stored, cold = [], [], [], 0, False
        for index in range(rounds):
            report("encoding", index, rounds)
            cold = _forget(files)
            reads.append(in_new_process(_read, files))
            _forget(files)
            seconds, peak, stored = in_new_process(_encode, *pair)
            encodes.append(seconds)
            peaks.append(peak)
        report("encoding", rounds, rounds)
        pair_bytes = sum(file.stat().st_size for file in files)
    return {
        "model": f"Qwen3-4B, {config['num_hidden_layers']} layers" if config["hidden_size"] == 2560 else "random",
        "layers": config["num_hidden_layers"],
        "scale": _SCALE,
        "parameters": count,
        "pair_bytes": pair_bytes,
        "stored_bytes": stored,
        "cold": cold,
        "rounds": rounds,
        "read_s": statistics.median(reads),
        "encode_s": statistics.median(encodes),
        "read_gb_per_s": pair_bytes / statistics.median(reads) / 1e9,
        "encode_gb_per_s": pair_bytes / statistics.median(encodes) / 1e9,
        "share": statistics.median(a / b for a, b in zip(reads, encodes, strict=True)),
        "peak_bytes": max(peaks),
    }


def write_pair(model: nn.Module, config: Json, base: Path, tuned: Path) -> Iterator[int]:
    """Write two folders of bf16 weights drawn from one pool of normal numbers, a file a layer; yields their number."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal(_POOL, np.float32) * _WEIGHT_RMS).astype(np.float32)
    pools = [mx.array(weights).astype(mx.bfloat16)]
    pools.append((pools[0].astype(mx.float32) + mx.random.normal((_POOL,)) * _DELTA_RMS).astype(mx.bfloat16))
    mx.eval(pools)
    bits = [np.array(pool.view(mx.uint16)) for pool in pools]
    groups: dict[str, list[tuple[str, tuple[int, ...], int]]] = {}
    for name, array in dict(tree_flatten(model.parameters())).items():
        layer = next((part for part in name.split(".") if part.isdigit()), "rest")
        groups.setdefault(layer, []).append((name, tuple(array.shape), int(rng.integers(_POOL))))
    for folder in (base, tuned):
        folder.mkdir()
        fsio.write_json(folder / "config.json", dict(config))
    for step, (layer, members) in enumerate(groups.items(), start=1):
        for folder, pool in zip((base, tuned), bits, strict=True):
            arrays = {name: mx.array(_drawn(pool, shape, at)).view(mx.bfloat16) for name, shape, at in members}
            file = folder / f"model-{layer}.safetensors"
            mx.save_safetensors(str(file), arrays, metadata={"format": "mlx"})
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())  # only clean pages can be dropped
        yield step


def _drawn(pool: np.ndarray, shape: tuple[int, ...], at: int) -> np.ndarray:
    """`shape` numbers of the pool from `at` on, round and round."""
    return np.resize(np.concatenate([pool[at:], pool[:at]]), shape)


def _forget(files: list[Path]) -> bool:
    """Drop the files from the page cache; False where the system knows no such wish."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in files:
        with open(file, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _read(files: list[Path]) -> float:
    """Seconds to read every byte of `files`, on as many threads as there are cores."""
    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(_read_file, files))
    return time.perf_counter() - start


def _read_file(file: Path) -> None:
    piece = bytearray(_PIECE_BYTES)
    with open(file, "rb", buffering=0) as handle:
        while handle.readinto(piece):
            pass


def _encode(base: Path, tuned: Path) -> tuple[float, int, int]:
    """(seconds, peak memory of the process, bytes of the parts) of encoding `tuned` - `base`."""
    start = time.perf_counter()
    unread = build(base)
    wanted = targets(unread)
    names, base_of = lazy_reader(unread, as_stored=True, on_disk=stored(base, unread))
    del unread
    changed = build(tuned)
    _, tuned_of = lazy_reader(changed, as_stored=True, on_disk=stored(tuned, changed))
    del changed
    tensors, _ = encode(names, base_of, tuned_of, targets=wanted, scale=_SCALE)
    return time.perf_counter() - start, peak_memory_bytes(), sum(tensor.nbytes for tensor in tensors.values())
