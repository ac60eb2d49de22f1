"""Arrays by name -> a model folder that mlx-lm can load, and the lock under which one process at a time builds one.

The configuration and tokenizer are another model's. The next process removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import mlx.core as mx

from .. import fsio
from ..errors import InputError
from ..fsio import Json
from . import validate
from .build import head_flag

SHARD_BYTES = 4 << 30
_COPIED = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken")


def save_like(source: Path, target: Path, arrays: Iterable[tuple[str, mx.array]], changes: Json) -> None:
    """Fill the empty folder `target`: `source`'s configuration with `changes`, its tokenizer's files, and `arrays`.

    Arrays are taken one by one and written in shards of 4 GB.
    """
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if file.name not in ("config.json", validate.INDEX):
                shutil.copyfile(file, target / file.name)
    config = validate.read_config(source) | head_flag(source) | changes
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    shard: dict[str, mx.array] = {}
    shards: list[list[str]] = []
    total = size = 0

    def flush() -> None:
        mx.save_safetensors(str(target / f"{len(shards):05d}.safetensors"), shard, metadata={"format": "mlx"})
        shards.append(list(shard))
        shard.clear()

    for name, array in arrays:
        if shard and size + array.nbytes > SHARD_BYTES:
            flush()
            size = 0
        shard[name] = array
        size += array.nbytes
        total += array.nbytes
    flush()
    where: dict[str, str] = {}
    for at, names in enumerate(shards):
        one = "model.safetensors" if len(shards) == 1 else f"model-{at + 1:05d}-of-{len(shards):05d}.safetensors"
        (target / f"{at:05d}.safetensors").rename(target / one)
        where |= dict.fromkeys(names, one)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (target / validate.INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


_POLL_S = 0.2


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, waiting for another process that has it, and sweep half-made siblings."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(fsio.lock(folder.parent / f".{folder.name}.lock", "another process is building it"))
                break
            except InputError:
                time.sleep(_POLL_S)
        for pattern in (f".{folder.name}.fetch-*", f".{folder.name}.*.tmp", f".{folder.name}.*.old"):
            for left in folder.parent.glob(pattern):
                fsio.remove(left)
        yield
