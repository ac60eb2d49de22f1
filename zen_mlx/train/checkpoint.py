"""A training run on disk: latents, moments and where the run stood, published whole.

ZEN_HOME/runs/NAME/           0700, removed when the run is done
    run.json                  what must be the same to go on: data, base and settings, as digests and numbers
    state.safetensors         latents, m, v and the step, in one file, so that they cannot disagree
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from .. import fsio
from ..errors import FormatError, ResumeMismatchError, StorageError
from .optimizer import AdamState

RUN, STATE = "run.json", "state.safetensors"


def exists(folder: Path) -> bool:
    """True when `folder` holds an unfinished run."""
    return (folder / RUN).is_file() and (folder / STATE).is_file()


def save(folder: Path, facts: Mapping[str, Any], latents: Mapping[str, mx.array], adam: AdamState) -> None:
    """Publish the run's state; `facts` are the JSON values that a resumed run must share."""
    fsio.make_dir(folder)
    tensors = {f"latent/{name}": array for name, array in latents.items()}
    tensors |= {f"m/{name}": array for name, array in adam.m.items()}
    tensors |= {f"v/{name}": array for name, array in adam.v.items()}
    with fsio.publish(folder / STATE, mode=fsio.PRIVATE_FILE_MODE) as temporary:
        # mx.save_safetensors insists on its own suffix.
        written = temporary.with_suffix(".safetensors")
        try:
            mx.save_safetensors(str(written), tensors, metadata={"step": str(adam.step)})
            written.rename(temporary)
        except RuntimeError as error:  # how MLX says that a write failed
            raise StorageError("the disk refused the checkpoint; the one before it is kept", path=folder) from error
        finally:
            written.unlink(missing_ok=True)
    if not (folder / RUN).exists():
        fsio.write_json(folder / RUN, dict(facts), mode=fsio.PRIVATE_FILE_MODE)


def facts(folder: Path) -> dict[str, Any]:
    """The facts a run was started with."""
    path = folder / RUN
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise FormatError(
            "the checkpoint's run.json is damaged", path=path, hint="start again with --replace"
        ) from error
    if not isinstance(value, dict):
        raise FormatError("the checkpoint's run.json is not an object", path=path)
    return value


def check_same(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The stored facts, if every one in `wanted` is the same; else `ResumeMismatchError` naming the first that is not."""
    stored = facts(folder)
    for name, value in wanted.items():
        if stored.get(name) != value:
            raise ResumeMismatchError(
                "this run was started with something else",
                path=folder,
                field=name,
                expected=stored.get(name),
                found=value,
                hint="resume with the same data and settings, or start again with --replace",
            )
    return stored


def load_step(folder: Path) -> int:
    """Steps done when the checkpoint was written; only the file's header is read."""
    try:
        with safe_open(folder / STATE, framework="numpy") as file:
            return int((file.metadata() or {})["step"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError(
            "the checkpoint is damaged", path=folder / STATE, hint="start again with --replace"
        ) from error


def load(folder: Path) -> tuple[dict[str, mx.array], AdamState]:
    """(latents, optimizer state) of the checkpoint."""
    path = folder / STATE
    groups: dict[str, dict[str, mx.array]] = {"latent": {}, "m": {}, "v": {}}
    try:
        with safe_open(path, framework="numpy") as file:
            step = int((file.metadata() or {})["step"])
            for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                group, _, name = key.partition("/")
                groups[group][name] = mx.array(np.ascontiguousarray(file.get_tensor(key)))
    except (SafetensorError, KeyError, ValueError) as error:
        raise FormatError("the checkpoint is damaged", path=path, hint="start again with --replace") from error
    return groups["latent"], AdamState(groups["m"], groups["v"], step)
