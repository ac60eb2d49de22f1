"""The two digests that identify a base.

weights = SHA-256 over the tensors sorted by name bytes of `name \\0 DTYPE \\0 d0,d1,.. \\0` + SHA-256(little-endian
C-order bytes), the tensors being what mlx-lm's `sanitize` makes of the STORED files (never of arrays cast for the CPU).
tokenizer = SHA-256 of the canonical JSON {"model", "added_tokens", "chat_template"}.
Both are kept in `ZEN_HOME/digests.json` by path, file sizes and modification times.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import fsio
from .. import paths as names
from ..errors import ModelFormatError
from ..fsio import Json
from . import tied_head, validate
from .build import build, plain_config

if TYPE_CHECKING:
    import mlx.nn as nn

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_DTYPE_NAMES = {
    "bool_": "BOOL",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_OWN_HEAD = "own_head"
_COPY_OF = "copy_of"
_IN_FLIGHT = 4  # tensors in memory at once


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """Lower-case hex SHA-256 of a base's weights and of its tokenizer."""

    weights: str
    tokenizer: str


def fingerprint(folder: Path) -> Fingerprint:
    """The digests of the model folder, from the cache while its files have not changed."""
    stamps = _stamps(folder)
    cached = cached_entries().get(str(folder.resolve()))
    known = cached if isinstance(cached, dict) else {}
    own = _own_head(folder, known, stamps) | {key: known[key] for key in (_COPY_OF,) if key in known}
    digests = {}
    for part, compute in (("weights", weight_digest), ("tokenizer", tokenizer_digest)):
        fresh = known.get(f"{part}_files") == stamps[part] and _is_hex(known.get(part))
        if part == "weights" and own.get(_OWN_HEAD) and _OWN_HEAD not in known:
            fresh = False  # hashed when a head beside a tied embedding was still dropped
        digests[part] = known[part] if fresh else compute(folder)
    found = Fingerprint(**digests)
    if known != _entry(found, stamps) | own:
        remember(folder, found, own)
    return found


def _own_head(folder: Path, known: Json, stamps: dict[str, list[list[str | int]]]) -> Json:
    """Where files and `tie_word_embeddings` may disagree: whether the stored head is one of its own; else {}."""
    if known.get("weights_files") == stamps["weights"] and _OWN_HEAD in known:
        return {_OWN_HEAD: known[_OWN_HEAD]}
    config = plain_config(folder)
    if not tied_head.is_doubtful(config, folder):
        return {}
    return {_OWN_HEAD: tied_head.is_tied(config, folder) is False}


def remember(folder: Path, digests: Fingerprint, more: Json | None = None) -> None:
    """Put the digests of the model folder, as its files are now, into the cache."""
    entry = _entry(digests, _stamps(folder)) | (more or {})
    fsio.write_json(
        names.digest_cache_path(), {**cached_entries(), str(folder.resolve()): entry}, mode=fsio.PRIVATE_FILE_MODE
    )


def remember_copy(folder: Path, found: Json) -> None:
    """Keep with the folder's digests what was found about the base that it is a copy of."""
    remember(folder, fingerprint(folder), {_COPY_OF: found})


def known_copy(folder: Path) -> Json:
    """What `remember_copy` kept; {} for nothing."""
    entry = cached_entries().get(str(folder.resolve()))
    found = entry.get(_COPY_OF) if isinstance(entry, dict) else None
    return found if isinstance(found, dict) else {}


def weight_digest(folder: Path) -> str:
    """Hash every stored tensor of the model folder, a few at a time in memory."""
    validate.check_folder(folder)
    return digest_tensors(tensors_of(build(folder)))


def digest_tensors(tensors: Iterable[tuple[str, str, tuple[int, ...], np.ndarray]]) -> str:
    """SHA-256 over (name, safetensors dtype, shape, bytes as an array), in the given order: by name bytes."""
    total = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor(min(_IN_FLIGHT, os.cpu_count() or 1)) as pool:
        waiting: collections.deque[tuple[bytes, concurrent.futures.Future[bytes]]] = collections.deque()
        for name, dtype, shape, values in tensors:
            head = f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode()
            waiting.append((head, pool.submit(_sha256, values)))
            if len(waiting) >= _IN_FLIGHT:
                _take(total, waiting)
        while waiting:
            _take(total, waiting)
    return total.hexdigest()


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 of what decides how text becomes token ids: model, added tokens and chat template."""
    tokenizer = validate.read_json(folder / "tokenizer.json")
    if "model" not in tokenizer:
        raise ModelFormatError("the tokenizer has no model", path=folder / "tokenizer.json", field="model")
    identity = {
        "model": tokenizer["model"],
        "added_tokens": tokenizer.get("added_tokens", []),
        "chat_template": chat_template(folder),
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def chat_template(folder: Path) -> str | None:
    """The chat template transformers would use: chat_template.jinja, else the one in tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    template = validate.read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def tensors_of(model: nn.Module) -> Iterator[tuple[str, str, tuple[int, ...], np.ndarray]]:
    """What `digest_tensors` hashes, of a module whose tensors are not in memory yet; nothing else may hold the module."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    parameters = list(dict(tree_flatten(model.parameters())).items())
    del model
    parameters.sort(key=lambda item: item[0].encode(), reverse=True)
    views = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
    while parameters:
        # Popped, so that a tensor's memory is free as soon as it is hashed.
        name, value = parameters.pop()
        dtype = _DTYPE_NAMES[str(value.dtype).rpartition(".")[2].replace("bool", "bool_")]
        rows = value if value.ndim else value.reshape(1)
        raw = np.array(rows.view(views[value.dtype.size]))
        yield name, dtype, tuple(value.shape), raw


def _sha256(values: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).view(np.uint8).data).digest()


def _take(total: hashlib._Hash, waiting: collections.deque[tuple[bytes, concurrent.futures.Future[bytes]]]) -> None:
    head, future = waiting.popleft()
    total.update(head + future.result())


def _stamps(folder: Path) -> dict[str, list[list[str | int]]]:
    """Name, size and modification time of the files each digest depends on."""
    files = {
        "weights": [folder / "config.json", *validate.weight_files(folder)],
        "tokenizer": [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()],
    }
    return {
        part: [[file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in paths]
        for part, paths in files.items()
    }


def _entry(digests: Fingerprint, stamps: dict[str, list[list[str | int]]]) -> Json:
    return {
        "weights": digests.weights,
        "weights_files": stamps["weights"],
        "tokenizer": digests.tokenizer,
        "tokenizer_files": stamps["tokenizer"],
    }


def cached_entries() -> Json:
    """The digest cache; an unreadable one only costs hashing again."""
    try:
        value = json.loads(names.digest_cache_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64
