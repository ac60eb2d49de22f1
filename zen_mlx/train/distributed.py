"""One run on several machines: the same command under MLX's launcher, each step's rows split, the gradients summed.

    g = sum over ranks of the gradient of the rank's rows: that of all rows, as one process computes it

Every exchange begins with a short message from each rank to all. One that has failed sends its error in place of it, and
all end with that error; none waits for a rank that is not coming. Rank 0 alone writes files. A process that was not
launched is a team of one: nothing is imported, opened or exchanged for it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from .. import errors
from ..data.batches import bucket_length
from ..data.loss import Loss
from ..data.tokens import TokenRow
from ..errors import ConfigError, TrainingError, ZenError
from ..fsio import Json
from .checkpoint import RunNumbers, RunState
from .optimizer import AdamState, by_bytes

BUFFER_BYTES = 32 * 2**20
"""Gradients are summed in pieces of at most this size, or of one array: the ring is slow with many small ones."""
MESSAGE_BYTES = 2048
_LOST = "the connection to another machine of the run was lost"


def launched() -> tuple[str, int] | None:
    """(MLX's name of the backend, rank) when a launcher started this process with others, by its environment alone."""
    found = os.environ
    if int(found.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return "mpi", int(found["OMPI_COMM_WORLD_RANK"])
    if "MLX_RANK" not in found:
        return None
    rank = int(found["MLX_RANK"])
    if int(found.get("MLX_WORLD_SIZE") or 1) > 1:
        return "nccl", rank
    if found.get("MLX_IBV_DEVICES"):
        return "jaccl", rank
    hosts = found.get("MLX_HOSTFILE")
    if hosts and Path(hosts).is_file() and Path(hosts).read_text(encoding="utf-8").strip():
        return "ring", rank
    return None


@functools.cache
def process_group() -> ProcessGroup:
    """The ranks this process runs with, connected at the first call. ConfigError when they cannot be reached."""
    place = launched()
    if place is None:
        return ProcessGroup()
    backend, rank = place
    try:
        # Strict: otherwise a rank that reaches nobody would train alone.
        group = mx.distributed.init(strict=True, backend=backend)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "the other machines of the run cannot be reached",
            field=f"{backend} rank {rank}",
            found=str(error).strip(),
            hint="check the addresses, and that the ports from --starting-port on are free",
        ) from error
    return ProcessGroup(group, backend)


class ProcessGroup:
    """rank: of this process; size: how many there are; `leads`: this one writes the files and speaks."""

    def __init__(self, group: mx.distributed.Group | None = None, backend: str = "") -> None:
        self._group, self._ring = group, backend == "ring"
        # On a GPU's stream, waiting for a slow rank counts as a kernel that hangs, and the system ends the process.
        self._stream = None if backend == "nccl" else mx.cpu
        self.rank: int = group.rank() if group is not None else 0
        self.size: int = group.size() if group is not None else 1
        self.leads = self.rank == 0
        self.error_is_known = False
        """Every rank ends with the error that was raised last."""
        self.lost = False
        """A rank cannot be reached any more."""

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """An error of this rank in the block is raised on all of them, at their next exchange."""
        self.error_is_known = False
        try:
            yield
        except Exception as error:
            if self.size > 1 and not self.error_is_known and not self.lost:
                with contextlib.suppress(TrainingError):
                    self._exchange({"error": _described(error)})
                self.error_is_known = not self.lost
            raise

    def share(self, rows: list[TokenRow]) -> list[TokenRow]:
        """This rank's part of the rows of a step: longest first, each to the rank with the fewest padded tokens so far."""
        if self.size == 1:
            return rows
        loads = [0] * self.size
        mine = []
        for row in sorted(rows, key=lambda row: -len(row.ids)):
            to = loads.index(min(loads))
            loads[to] += bucket_length(max(len(row.ids) - 1, 1))
            if to == self.rank:
                mine.append(row)
        return mine

    def sum_step(
        self, total: float, tokens: int, grads: dict[str, mx.array], like: Mapping[str, mx.array]
    ) -> tuple[float, int, dict[str, mx.array]]:
        """(sum of nats, supervised tokens, gradients) over all ranks; the same bits on each.

        A rank without rows has no gradients: they count as zeros of the shapes in `like`.
        """
        if self.size == 1:
            return total, tokens, grads
        parts = self.tell([total, tokens])
        for names in by_bytes(dict(sorted(like.items())), BUFFER_BYTES):
            flat = mx.concatenate(
                [(grads.pop(name) if name in grads else mx.zeros_like(like[name])).reshape(-1) for name in names]
            )
            mx.eval(flat)
            grads |= _split(self._all_sum(flat), names, like)
        return sum(part[0] for part in parts), sum(part[1] for part in parts), grads

    def mean(self, loss: Loss) -> Loss:
        """The loss over all ranks' tokens, each having measured its own."""
        if self.size == 1:
            return loss
        parts = self.tell([loss.nats * loss.tokens, loss.tokens, loss.agreed])
        nats, tokens, agreed = (sum(part[index] for part in parts) for index in range(3))
        return Loss(nats / max(tokens, 1), tokens, agreed)

    def any(self, flag: bool) -> bool:
        """True on every rank when it is on one."""
        return flag if self.size == 1 else any(self.tell(bool(flag)))

    def lead(self, value: Any) -> Any:
        """Rank 0's `value`, a JSON value of any length."""
        if self.size == 1:
            return value
        data = json.dumps(value).encode() if self.leads else b""
        length = self.tell(len(data))[0]
        words = np.zeros(-(-length // 4), np.int32)
        words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return json.loads(np.array(self._all_sum(mx.array(words))).tobytes()[:length])

    def lead_arrays(self, arrays: Mapping[str, mx.array], like: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Rank 0's f32 arrays, bit for bit; other ranks need to know their shapes only, from `like`."""
        if self.size == 1:
            return dict(arrays)
        self.tell(None)
        out: dict[str, mx.array] = {}
        for names in by_bytes(dict(sorted(like.items())), BUFFER_BYTES):
            if self.leads:
                flat = mx.concatenate([arrays[name].reshape(-1) for name in names]).view(mx.int32)
            else:
                flat = mx.zeros(sum(like[name].size for name in names), mx.int32)
            mx.eval(flat)
            out |= _split(self._all_sum(flat).view(mx.float32), names, like)
        return out

    def keep_equal(self, arrays: dict[str, mx.array]) -> None:
        """In place: rank 0's arrays where a rank's differ, as they may by rounding on another kind of chip."""
        if self.size > 1 and len(set(self.tell(digest(arrays)))) > 1:
            arrays.update(self.lead_arrays(arrays, arrays))
            if len(set(self.tell(digest(arrays)))) > 1:
                raise TrainingError("the machines of the run do not hold the same numbers", field="rank")

    def lead_state(self, state: RunState) -> RunState:
        """Rank 0's state of a run, which alone may have read a checkpoint."""
        if self.size == 1:
            return state
        step, progress, has_best = self.lead([state.step, asdict(state.progress), state.best is not None])
        latents = like = self.lead_latents(state.latents)
        m, v = (self.lead_arrays(group, like) if step else {} for group in (state.adam.m, state.adam.v))
        best = self.lead_arrays(state.best or {}, like) if has_best else None
        return RunState(latents, AdamState(m, v, step), RunNumbers(**progress), best)

    def lead_latents(self, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
        """Rank 0's f32 arrays, of whatever names and shapes they are."""
        if self.size == 1:
            return arrays
        shapes = self.lead({name: list(array.shape) for name, array in arrays.items()})
        return self.lead_arrays(arrays, {name: mx.zeros(shape) for name, shape in shapes.items()})

    def check_same(self, facts: Mapping[str, object]) -> None:
        """ConfigError that names the first of `facts`, JSON values, in which a rank differs from rank 0."""
        if self.size == 1:
            return
        found = {name: _short(json.dumps(value, sort_keys=True).encode()) for name, value in facts.items()}
        for rank, theirs in enumerate(told := self.tell(found)):
            for name in found:
                if theirs.get(name) != told[0].get(name):
                    raise ConfigError(
                        f"rank {rank} does not train the same thing as rank 0",
                        field=name,
                        hint="every machine needs the same files, base model, settings and version",
                    )

    def outlast_lead(self) -> None:
        """Wait until rank 0 has ended: a launcher ends every process when one has failed, and rank 0 has something to say."""
        if self.size > 1 and not self.leads and not self.lost:
            if self._ring:
                with contextlib.suppress(TrainingError):
                    self._all_sum(mx.zeros(1))
            else:  # they do not notice that a rank is gone
                time.sleep(2)

    def tell(self, value: Any) -> list[Any]:
        """What every rank told, by rank; `value` is short JSON. Raises the error of a rank that failed."""
        if self.size == 1:
            return [value]
        told = self._exchange({"value": value})
        for rank, message in enumerate(told):
            if "error" in message:
                self.error_is_known = True
                raise _rebuilt(rank, message["error"])
        return [message["value"] for message in told]

    def _exchange(self, message: Json) -> list[Json]:
        data = json.dumps(message).encode()
        board = np.zeros((self.size, MESSAGE_BYTES), np.uint8)
        board[self.rank, : len(data)] = np.frombuffer(data, np.uint8)
        summed = np.array(self._all_sum(mx.array(board.view(np.int32))))
        return [json.loads(row.tobytes().rstrip(b"\0")) for row in summed]

    def _all_sum(self, array: mx.array) -> mx.array:
        try:
            summed = mx.distributed.all_sum(array, group=self._group, stream=self._stream)
            mx.eval(summed)
        except RuntimeError as error:
            self.lost = True
            raise TrainingError(_LOST, hint="start the same command again with --resume, or --replace") from error
        return summed


def digest(arrays: Mapping[str, mx.array]) -> str:
    """Hex digest of f32 arrays: of the sum of each one's bits as u32, so that it costs one pass over memory."""
    sums = [arrays[name].view(mx.uint32).sum() for name in sorted(arrays)]
    return _short(np.array(mx.stack(sums)).tobytes()) if sums else ""


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _split(flat: mx.array, names: list[str], like: Mapping[str, mx.array]) -> dict[str, mx.array]:
    ends = np.cumsum([like[name].size for name in names])
    # Evaluated, so that nothing keeps the whole buffer alive through a lazy slice.
    parts = [
        part.reshape(like[name].shape) for name, part in zip(names, mx.split(flat, ends[:-1].tolist()), strict=True)
    ]
    mx.eval(parts)
    return dict(zip(names, parts, strict=True))


def _described(error: Exception) -> Json:
    """The error as JSON that fits into a message."""
    fields = error.to_dict() if isinstance(error, ZenError) else {"type": type(error).__name__, "message": str(error)}
    if len(json.dumps(fields)) > MESSAGE_BYTES - 64:
        fields = {"type": fields["type"], "message": fields["message"][:200]}
    return fields


def _rebuilt(rank: int, fields: Json) -> ZenError:
    """The error of another rank, of the same type where it is one of ours."""
    name, message = fields.pop("type"), fields.pop("message")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, ZenError):
        return kind(f"rank {rank}: {message}", **fields)
    return TrainingError(f"rank {rank}: unexpected {name}: {message}")
