"""Memory of many profiles in one model: the bytes of their slots against those of their files, and a server of hundreds."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..adapter.resident import Resident
from ..adapter.resident_set import ResidentSet
from ..adapter.targets import model_count, targets
from ..codec.parts import Part
from ..events import Progress
from ..format.read import read
from ..format.spec import DeltaTensor, Profile
from ..format.write import write
from ..fsio import Json
from .paper_latency import resident_set_bytes
from .paper_sizes import CODECS, dimensions, facts_of, profile_bytes, skeleton
from .process import in_new_process
from .serve_profiles import KINDS, one_rank
from .synthetic import SMOLLM2_135M, factor_part, sign_part

COUNTS, _QUICK_COUNTS = (1, 2, 5, 10, 20, 50, 100), (1, 2, 5, 10)
PEOPLE = (1, 10, 100, 500)
LARGE = "Qwen3-4B"
PAPER: Json = {"people": 100, "base_bytes": 120e9, "profiles_bytes": 120e9, "copies_bytes": 12e12}
"""The whitepaper's 5.2."""


def measure_memory(quick: bool, report: Progress) -> list[Json]:
    """The rows of `memory_rows` for each kind of profile at the embedded base's dimensions, each in a new process."""
    rows = []
    for index, kind in enumerate(KINDS):
        report("memory of profiles", index, len(KINDS))
        rows += in_new_process(memory_rows, SMOLLM2_135M, kind, _QUICK_COUNTS if quick else COUNTS)
    report("memory of profiles", len(KINDS), len(KINDS))
    return rows


def memory_rows(config: Json, kind: str, counts: Sequence[int]) -> list[Json]:
    """Rows of "kind", "profiles", "file_bytes" (of all files), "slot_bytes" (of all slots, free ones included), "ratio" of
    the two, "process_bytes" (what the process grew by, reading included) and "mlx_cache_bytes" (freed arrays that MLX keeps).

    One set takes one profile after the other from its file, up to the last of `counts`, which is also its limit.
    """
    model = skeleton(config)  # slots need the shapes of the base only
    residents = ResidentSet(model, counts[-1])
    with tempfile.TemporaryDirectory(prefix="zen-bench-") as folder:
        file = Path(folder) / "random.bitdelta"
        before = resident_set_bytes()
        rows, total = [], 0
        for index in range(counts[-1]):
            total += _written(model, kind, index, file)
            for _ in residents.load(str(index), Resident.from_profile(read(file))):
                pass
            if index + 1 in counts:
                rows.append(_row(kind, index + 1, total, residents.nbytes, resident_set_bytes() - before))
    return rows


def _written(model: Any, kind: str, index: int, file: Path) -> int:
    write(KINDS[kind](model, index), file)
    return file.stat().st_size


def _row(kind: str, profiles: int, file_bytes: int, slot_bytes: int, grown: int) -> Json:
    return {
        "kind": kind,
        "profiles": profiles,
        "file_bytes": file_bytes,
        "slot_bytes": slot_bytes,
        "ratio": slot_bytes / file_bytes,
        "process_bytes": max(0, grown),
        "mlx_cache_bytes": int(mx.get_cache_memory()),
    }


def compute_people() -> Json:
    """The whitepaper's 5.2 for a 4B model, computed from its dimensions: nothing of that size is made or measured.

    "rows": "kind", "people" with a profile each, "base_bytes" (f16), "profiles_bytes" (slots), "file_bytes",
    "copies_bytes" (a full f16 model each) and "ratio": how many times the copies' the memory is. "paper": its own row.
    """
    (each,) = (found for found in dimensions() if found.name == LARGE)
    model = skeleton(each.config)
    shapes, facts = targets(model), facts_of(each.name, each.config, model)
    base = 2 * model_count(model)
    rows = []
    for kind, codec in (("sign", "sign, row x col"), ("factor", "factor, 0.33")):
        one = slot_bytes(kind, shapes)
        file = profile_bytes(facts, shapes, CODECS[codec](shapes))
        for people in PEOPLE:
            kept, copies = people * one, people * base
            sizes = {"base_bytes": base, "profiles_bytes": kept, "file_bytes": people * file, "copies_bytes": copies}
            rows.append({"kind": kind, "people": people, **sizes, "ratio": copies / (base + kept)})
    return {"model": each.name, "computed": True, "rows": rows, "paper": PAPER}


def slot_bytes(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of one profile's slots, a "sign" or "factor" one, from a part of each distinct form."""
    rng = np.random.default_rng(0)
    groups = one_rank(shapes) if kind == "factor" else dict.fromkeys(shapes, ())
    forms = Counter((shape, groups[name]) for name, shape in shapes.items())
    return sum(count * _bytes_of(_part(rng, *form), form[0]) for form, count in forms.items())


def _part(rng: np.random.Generator, shape: tuple[int, ...], groups: Any) -> Part:
    return factor_part(rng, shape, groups) if groups else sign_part(rng, shape, "rowcol")


def _bytes_of(part: Part, shape: tuple[int, ...]) -> int:
    tensors = {"part": DeltaTensor(shape, (part,))}
    empty = partial(Profile, info={}, base={}, metrics={}, target_count=1, model_count=1)
    return Resident.from_profile(empty(tensors=tensors)).nbytes
