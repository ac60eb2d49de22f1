"""Difference of two profiles in numbers: cosine, relative norm and share of equal signs, per tensor and overall."""

from __future__ import annotations

import math

import numpy as np

from ..codec.parts import decode_all
from ..format.spec import Profile
from ..fsio import Json


def diff(a: Profile, b: Profile) -> Json:
    """{"same_base", "total": {...}, "tensors": [{"name", "cosine", "relative_norm", "sign_agreement"}], "only_a", "only_b"}.

    cosine = <A, B> / (||A|| ||B||); relative_norm = ||B|| / ||A||; sign_agreement = share of elements of equal sign.
    """
    rows: list[Json] = []
    sums = np.zeros(5)
    for name in sorted(set(a.tensors) & set(b.tensors)):
        if a.tensors[name].shape != b.tensors[name].shape:
            rows.append({"name": name, "cosine": None, "relative_norm": None, "sign_agreement": None})
            continue
        x = decode_all(a.tensors[name].parts, a.tensors[name].shape)
        y = decode_all(b.tensors[name].parts, b.tensors[name].shape)
        part = np.array(
            [
                float((x * y).sum(dtype=np.float64)),
                float(np.square(x).sum(dtype=np.float64)),
                float(np.square(y).sum(dtype=np.float64)),
                float(np.count_nonzero((x >= 0) == (y >= 0))),
                float(x.size),
            ]
        )
        sums += part
        rows.append({"name": name, **_numbers(part)})
    return {
        "same_base": a.base.get("weights") == b.base.get("weights"),
        "total": _numbers(sums),
        "tensors": rows,
        "only_a": sorted(set(a.tensors) - set(b.tensors)),
        "only_b": sorted(set(b.tensors) - set(a.tensors)),
    }


def _numbers(sums: np.ndarray) -> dict[str, float | None]:
    xy, xx, yy, same, count = (float(value) for value in sums)
    return {
        "cosine": xy / math.sqrt(xx * yy) if xx and yy else None,
        "relative_norm": math.sqrt(yy / xx) if xx else None,
        "sign_agreement": same / count if count else None,
    }
