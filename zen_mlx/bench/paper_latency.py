"""Table 4.3 and the memory of Appendix B: time to load and to switch a profile, and memory to apply it."""

from __future__ import annotations

import re
import resource
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import mlx.core as mx

from ..adapter.attach import Resident, attach, switch
from ..adapter.targets import targets
from ..base.load import load_model
from ..events import Progress
from ..format.read import read
from ..format.write import write
from ..fsio import Json
from .machine import memory_bytes
from .paper_sizes import CODECS, Dimensions, dimensions, facts_of, profile_bytes, skeleton
from .process import in_new_process
from .switch import load_seconds, measure_switch, seconds_of
from .synthetic import SMOLLM2_135M, dense_model, leaves, random_profile

_CODEC, _SCALE = "sign, row x col", "rowcol"
_REPEATS = 3


def measure_latency(quick: bool, report: Progress) -> list[Json]:
    """Rows of "model", "mode", "file_bytes", "load_s", "switch_s", "skipped" and the "paper"'s row, or None.

    Random one-bit profiles of row and column scales. Unmerged, a switch touches no array of the base, so none is made;
    the embedded base's dimensions are also merged, as they are used on a CPU. `quick`: the smallest model only.
    """
    chosen = dimensions()[:1] if quick else dimensions()
    rows = []
    for index, each in enumerate(chosen):
        report("loading and switching", index, len(chosen) + 1)
        rows.append(_row(each))
    report("loading and switching", len(chosen), len(chosen) + 1)
    config = {**SMOLLM2_135M, "num_hidden_layers": 2} if quick else SMOLLM2_135M
    found = in_new_process(
        partial(measure_switch, scale=_SCALE, repeats=_REPEATS), partial(dense_model, config), "merged"
    )
    label = f"SmolLM2-135M, {config['num_hidden_layers']} layers" if quick else "SmolLM2-135M"
    kept = {key: found[key] for key in ("mode", "file_bytes", "load_s", "switch_s")}
    rows.append({"model": label, **kept, "skipped": None, "paper": None})
    report("loading and switching", len(chosen) + 1, len(chosen) + 1)
    return rows


def _row(each: Dimensions) -> Json:
    model = skeleton(each.config)
    shapes = targets(model)
    size = profile_bytes(facts_of(each.name, each.config, model), shapes, CODECS[_CODEC](shapes))
    row: Json = {"model": each.name, "mode": "unmerged", "file_bytes": size, "load_s": None, "switch_s": None}
    row |= {"skipped": None, "paper": each.paper}
    # The profile, its file in the page cache and two loaded ones.
    if 4 * size > memory_bytes() // 4:
        return {**row, "skipped": f"needs {4 * size / 1e9:.0f} GB free of {memory_bytes() / 1e9:.0f}"}
    return {**row, **in_new_process(_latency, each.config)}


def _latency(config: Json) -> Json:
    model = skeleton(config)
    with tempfile.TemporaryDirectory(prefix="zen-bench-") as folder:
        file = Path(folder) / "random.bitdelta"
        write(random_profile(model, "random", 0, _SCALE), file)
        loads = [in_new_process(load_seconds, file) for _ in range(_REPEATS)]
        residents = [Resident.from_profile(read(file)) for _ in range(2)]
        size = file.stat().st_size
    for resident in residents:
        attach(model, resident, "unmerged")
    switches = [seconds_of(partial(switch, model, residents[i % 2])) for i in range(2 * _REPEATS)]
    return {"file_bytes": size, "load_s": statistics.median(loads), "switch_s": statistics.median(switches)}


def measure_memory(base: Path, profile: Path, report: Progress) -> list[Json]:
    """Rows of "mode" ("unmerged", "merged"), "base_bytes", "file_bytes", "peak_growth_bytes" while the file is read and
    applied, and "growth_bytes" after it; each in a process of its own."""
    rows = []
    for mode in ("unmerged", "merged"):
        report(f"memory, {mode}", 0, None)
        rows.append(
            {"mode": mode, "file_bytes": profile.stat().st_size, **in_new_process(_memory, base, profile, mode)}
        )
    return rows


def _memory(base: Path, profile: Path, mode: str) -> dict[str, int]:
    model = load_model(base)
    size = sum(array.nbytes for array in leaves(model))
    _forget_peak()
    before = resident_set_bytes()
    attach(model, Resident.from_profile(read(profile)), mode)
    mx.eval(model.parameters())
    return {
        "base_bytes": size,
        "peak_growth_bytes": max(0, _peak() - before),
        "growth_bytes": max(0, resident_set_bytes() - before),
    }


def _forget_peak() -> None:
    """Linux: the peak from now on. Elsewhere the peak of the process's whole life stays."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def _status(field: str) -> int | None:
    file = Path("/proc/self/status")
    found = re.search(rf"^{field}:\s*(\d+) kB$", file.read_text(), re.MULTILINE) if file.exists() else None
    return None if found is None else 1024 * int(found[1])


def resident_set_bytes() -> int:
    """This process's resident set now (Linux), else its peak so far."""
    found = _status("VmRSS")
    return _peak() if found is None else found


def _peak() -> int:
    found = _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if found is None else found
