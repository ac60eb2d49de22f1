"""A foreign file -> a profile of a base, unverified: such files do not say which weights they were made for."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from importlib.metadata import version as installed_version

import mlx.core as mx

from ..base.build import build
from ..base.info import base_info
from ..base.progress import Progress
from ..base.pull import pull
from ..delta.encode import lazy_reader
from ..delta.targets import model_count, target_count
from ..format.foreign.read import read_foreign
from ..format.spec import Profile
from .adopt import adopt, default_name, foreign_info
from .places import parameters


def foreign_profile(path: str | os.PathLike[str], base_name: str, on_pull: Progress | None = None) -> Profile:
    """The profile that the file or adapter folder at `path` is for the base `base_name`; nothing is lost or saved.

    The base's weights are not loaded: its names and shapes are compared, and parameters that the file holds whole are
    read one at a time. Errors: FormatError, UnsupportedFormat, TargetError, InputError.
    """
    foreign = read_foreign(path)
    folder = pull(base_name, on_pull)
    header = base_info(base_name).header()
    model = build(folder)
    base, counts = parameters(model), (target_count(model), model_count(model))
    _, base_of = lazy_reader(model)
    del model  # or every tensor that is read would stay
    tensors = adopt(foreign, base, base_of)
    mx.clear_cache()
    info = foreign_info(foreign, default_name(foreign))
    info |= {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tool": f"zen-mlx {installed_version('zen-mlx')}",
    }
    return Profile(
        info=dict(info),
        base={"model": header["model"], "architecture": header["architecture"], "verified": False},
        metrics={},
        target_count=counts[0],
        model_count=counts[1],
        tensors=tensors,
    )
