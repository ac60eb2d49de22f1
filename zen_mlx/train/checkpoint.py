"""Checkpoints and resume: a training run on disk, every file published whole, so that a killed run can go on.

ZEN_HOME/runs/NAME/               0700, removed when the run is done
    run.json                      what must be the same to go on and what was decided at the start; written first, removed first
    state-00000120.safetensors    arrays and numbers of `RunState` after step 120; the newest two are kept
    log.jsonl                     `log`

A run without a state begins at step 0. A state that is damaged (its CRC-32 covers every array) is passed over for the one
before it. The rows of a step and MLX's random state in it depend on the seed and its number alone, rate and lambda on its
number: `step` is the cursor of all of them.

SIGINT and SIGTERM end a run between two steps, with its state on disk.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from .. import fsio
from ..errors import FormatError, ResumeMismatchError, StorageError
from ..fsio import Json
from .optimizer import AdamState


@dataclass
class RunNumbers:
    """The numbers beside the arrays.

    first: loss of the first step, which is the base's; recent: losses of the last steps, oldest first.
    best_loss, best_step: lowest held-out loss that counts so far, and after which step; waited: evaluations since then.
    """

    first: float | None = None
    recent: list[float] = field(default_factory=list)
    best_loss: float | None = None
    best_step: int = 0
    waited: int = 0


@dataclass
class RunState:
    """Trained arrays, moments with the number of steps done, numbers, and the arrays of the best step."""

    latents: dict[str, mx.array]
    adam: AdamState = field(default_factory=AdamState)
    progress: RunNumbers = field(default_factory=RunNumbers)
    best: dict[str, mx.array] | None = None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.adam.step


RUN = "run.json"
KEPT = 2
_STATE = re.compile(r"state-(\d{8})\.safetensors")


def exists(folder: Path) -> bool:
    """True when `folder` holds an unfinished run."""
    return (folder / RUN).is_file()


def begin(folder: Path, facts: Mapping[str, object]) -> None:
    """Publish what the run is; a folder that is there is emptied first, unless it is this run's."""
    if not exists(folder):
        fsio.remove(folder)
    fsio.make_dir(folder)
    folder.chmod(fsio.PRIVATE_DIR_MODE)
    fsio.write_json(folder / RUN, dict(facts), mode=fsio.PRIVATE_FILE_MODE)


def remove(folder: Path) -> None:
    """Remove the run; whatever a kill leaves of the folder is no run any more."""
    fsio.remove(folder / RUN)
    fsio.remove(folder)


def facts(folder: Path) -> Json:
    """The facts a run was started with."""
    path = folder / RUN
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise FormatError("the checkpoint is damaged", path=path, hint="start again with --replace") from error
    if not isinstance(value, dict):
        raise FormatError("the checkpoint's run.json is not an object", path=path, hint="start again with --replace")
    return value


def check_same(folder: Path, wanted: Mapping[str, object]) -> Json:
    """The stored facts, if every one in `wanted` is the same; else `ResumeMismatchError` naming the first that is not."""
    stored = facts(folder)
    for name, value in wanted.items():
        different = _difference(name, stored.get(name), value)
        if different is not None:
            field, before, now = different
            raise ResumeMismatchError(
                "this run was started with other inputs",
                path=folder,
                field=field,
                expected=before,
                found=now,
                hint="resume with the same data, base and settings, or start again with --replace",
            )
    return stored


def save(folder: Path, state: RunState) -> None:
    """Publish `state` as the newest one and drop those before the last two.

    StorageError when the disk refuses; what was there before is kept.
    """
    arrays = _arrays(state)
    mx.eval(arrays)
    details = {"step": state.step, "progress": asdict(state.progress), "crc32": _crc32(arrays)}
    path = folder / f"state-{state.step:08d}.safetensors"
    with fsio.publish(path, mode=fsio.PRIVATE_FILE_MODE) as temporary:
        # mx.save_safetensors insists on its own suffix.
        written = temporary.with_suffix(".safetensors")
        try:
            mx.save_safetensors(str(written), arrays, metadata={"run": json.dumps(details)})
            written.rename(temporary)
        except RuntimeError as error:  # how MLX says that a write failed
            raise StorageError("the checkpoint cannot be written; the one before it is kept", path=folder) from error
        finally:
            written.unlink(missing_ok=True)
    for old in states(folder)[KEPT:]:
        fsio.remove(old)


def states(folder: Path) -> list[Path]:
    """The run's states, newest first."""
    found = [entry for entry in folder.iterdir() if _STATE.fullmatch(entry.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def load(folder: Path, note: Callable[[str], None] = lambda text: None) -> RunState | None:
    """The newest state that is whole, None for a run that has none yet; `note` gets a sentence for each damaged one.

    What a kill left of a write is removed. FormatError when every state is damaged.
    """
    for entry in folder.iterdir():
        if entry.name.startswith(".state-"):
            fsio.remove(entry)
    found = states(folder)
    for path in found:
        try:
            state = _read(path)
        except FormatError as error:
            if path == found[-1]:
                raise
            note(f"{error}; continuing from the one before it")
            continue
        return state
    return None


def _difference(field: str, before: object, now: object) -> tuple[str, object, object] | None:
    """(field, stored, wanted) of the first value that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**now, **before}:
            different = _difference(f"{field}.{key}", before.get(key), now.get(key))
            if different is not None:
                return different
        return None
    return None if before == now else (field, before, now)


def _arrays(state: RunState) -> dict[str, mx.array]:
    """group/name -> array."""
    groups = {"latent": state.latents, "m": state.adam.m, "v": state.adam.v, "best": state.best or {}}
    return {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}


def _crc32(arrays: Mapping[str, mx.array | np.ndarray]) -> int:
    crc = 0
    for name in sorted(arrays):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(np.asarray(arrays[name])).reshape(-1).view(np.uint8).data, crc)
    return crc


def _read(path: Path) -> RunState:
    groups: dict[str, dict[str, mx.array]] = {name: {} for name in ("latent", "m", "v", "best")}
    crc = 0
    try:
        with safe_open(path, framework="numpy") as file:
            details = json.loads((file.metadata() or {})["run"])
            for key in sorted(file.keys()):
                group, _, name = key.partition("/")
                values = np.ascontiguousarray(file.get_tensor(key))
                crc = zlib.crc32(values.reshape(-1).view(np.uint8).data, zlib.crc32(key.encode(), crc))
                groups[group][name] = mx.array(values)
            progress = RunNumbers(**details["progress"])
            step = int(details["step"])
            stored = details["crc32"]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FormatError("the checkpoint is damaged", path=path, hint="start again with --replace") from error
    if crc != stored:
        raise FormatError(
            "the checkpoint is damaged",
            path=path,
            field="crc32",
            expected=stored,
            found=crc,
            hint="start again with --replace",
        )
    return RunState(groups["latent"], AdamState(groups["m"], groups["v"], step), progress, groups["best"] or None)


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and saved its state; `step` of `steps` were done."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}; --resume continues from there")
        self.step = step
        self.steps = steps


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block SIGINT and SIGTERM only set a flag, which the yielded function returns; a second one acts."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
