"""Switching between profiles: its time, the cost of the next token, the time to load a profile, and memory."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from ..adapter.attach import Resident, attach, detach, switch, targets
from ..events import Progress
from ..format.read import read
from ..format.write import write
from ..fsio import Json
from .options import Options
from .process import in_new_process
from .synthetic import QWEN3_4B, SMOLLM2_135M, dense_model, leaves, quantized_qwen3, random_profile

_PROMPT_TOKENS = 4
_PIECE_BYTES = 4 << 20
_QUICK_LAYERS = 4
_SUBJECTS: tuple[tuple[str, str, Callable[..., nn.Module], Json], ...] = (
    ("Qwen3-4B, 4-bit", "unmerged", quantized_qwen3, QWEN3_4B),
    ("SmolLM2-135M, f32", "merged", dense_model, SMOLLM2_135M),
)


def measure(options: Options, report: Progress) -> Json:
    """The table's document: "rows", one of `measure_switch` for each random model, in a process of its own.

    The 4-bit model takes 5 GB. `quick` takes 3 rounds with 4 of each model's layers.
    """
    rows = []
    work = partial(measure_switch, repeats=3) if options.quick else measure_switch
    for index, (label, mode, build, config) in enumerate(_SUBJECTS):
        report(f"switching {mode}", index, len(_SUBJECTS))
        if options.quick:
            config = {**config, "num_hidden_layers": _QUICK_LAYERS}
            label = f"{label}, {_QUICK_LAYERS} layers"
        rows.append({"model": label, **in_new_process(work, partial(build, config), mode)})
    report("switching merged", len(_SUBJECTS), len(_SUBJECTS))
    return {"rows": rows}


def measure_switch(make_model: Callable[[], nn.Module], mode: str, *, repeats: int = 5, scale: str = "row") -> Json:
    """Two random profiles on the model that `make_model` builds, in `mode` "merged" or "unmerged".

    Times in seconds, medians of `repeats` (at least 3) after a warm-up; memory in bytes. Run it in a process of its own:
    `peak_bytes` is the growth of the process's largest resident set since the call.

    switch_s: `adapter.attach.switch` alone. token_s, token_after_switch_s: one decoded token without and with a switch
    before it (the switch included), taken in turn. load_s: file to MLX arrays, verified; plain_read_s: the same bytes
    into MLX arrays through NumPy in pieces of 4 MiB, unverified; both the first load of a process, file in the page cache.
    """
    if repeats < 3:
        raise ValueError(f"repeats must be at least 3, not {repeats}")
    start_bytes = _resident_bytes()
    model = make_model()
    base_bytes = sum(array.nbytes for array in leaves(model))
    with tempfile.TemporaryDirectory(prefix="zen-bench-") as folder:
        files = [Path(folder) / f"{name}.bitdelta" for name in "ab"]
        for seed, file in enumerate(files):
            write(random_profile(model, file.stem, seed, scale), file)
        file_bytes = files[0].stat().st_size
        first = Resident.from_profile(read(files[0]))
        attach(model, first, mode)
        mx.eval(model.parameters())
        peak_bytes = _peak_bytes() - start_bytes
        # In new processes, where no memory has been used before: freed pages make a read look faster than the first.
        plain = [in_new_process(_plain_read, files[1]) for _ in range(repeats)]
        loads = [in_new_process(load_seconds, files[1]) for _ in range(repeats)]
        second = Resident.from_profile(read(files[1]))
    residents = [first, second]
    for resident in (second, first):
        switch(model, resident)
        mx.eval(model.parameters())
    switches = [seconds_of(partial(switch, model, residents[i % 2])) for i in range(1, 2 * repeats + 1)]
    cache = make_prompt_cache(model)
    mx.eval(model(mx.arange(_PROMPT_TOKENS)[None], cache=cache))
    still, after = [], []
    for i in range(repeats + 1):
        still.append(seconds_of(partial(_token, model, cache)))
        after.append(seconds_of(partial(_token, model, cache, residents[(i + 1) % 2])))
    merged_bytes = sum(4 * int(np.prod(shape)) for shape in targets(model).values()) if mode == "merged" else 0
    resident_bytes = first.nbytes
    detach(model)
    return {
        "mode": mode,
        "targets": len(first.tensors),
        "base_bytes": base_bytes,
        "file_bytes": file_bytes,
        "resident_bytes": resident_bytes,
        "merged_bytes": merged_bytes,
        "peak_bytes": peak_bytes,
        "peak_over_needed": peak_bytes / (base_bytes + merged_bytes + resident_bytes),
        "switch_s": statistics.median(switches),
        "token_s": statistics.median(still[1:]),
        "token_after_switch_s": statistics.median(after[1:]),
        "first_token_ratio": statistics.median(b / a for a, b in zip(still[1:], after[1:], strict=True)),
        "load_s": statistics.median(loads),
        "plain_read_s": statistics.median(plain),
        "load_speed_share": statistics.median(plain) / statistics.median(loads),
    }


def _token(model: nn.Module, cache: list[object], change_to: Resident | None = None) -> None:
    if change_to is not None:
        switch(model, change_to)
    logits = model(mx.array([[1]]), cache=cache)
    mx.eval(mx.argmax(logits[:, -1], axis=-1))


def _plain_read(file: Path) -> float:
    """Seconds to read all bytes of `file` into MLX arrays through NumPy."""
    mx.eval(mx.zeros(1) + 1)
    start = time.perf_counter()
    arrays = []
    with file.open("rb") as handle:
        while (values := np.fromfile(handle, np.uint8, _PIECE_BYTES)).size:
            arrays.append(mx.array(values))
    mx.eval(arrays)
    return time.perf_counter() - start


def load_seconds(file: Path) -> float:
    """Seconds to load the profile in `file`."""
    mx.eval(mx.zeros(1) + 1)
    start = time.perf_counter()
    Resident.from_profile(read(file))
    return time.perf_counter() - start


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result
    return seconds


def _resident_bytes() -> int:
    """The process's resident set now (Linux), else its peak so far."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else _peak_bytes()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
