"""A file or folder of another program -> `Foreign`, recognized by its content, never by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...errors import FormatError, InputError, UnsupportedFormat
from ...format.source import failure, open_file
from ...format.spec import MAGIC, MAX_TEXT, Fail
from ...fsio import Json
from .adapters import is_mlx_adapter, read_mlx
from .foreign import MAX_JSON_BYTES, Entry, Foreign, Stored
from .look_alikes import read_reference, read_rust
from .masks import has_masks, read_masks
from .peft import is_peft_adapter, read_peft
from .tensors_file import looks_like_tensors, read_tensors
from .torch_zip import read_torch

CONFIG = "adapter_config.json"
FILES = ("adapters.safetensors", "adapter_model.safetensors", "adapter_model.bin")
"""What an adapter folder keeps its arrays in."""
_LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_HEAD_BYTES = 64


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds a LoRA adapter."""
    return folder.is_dir() and any((folder / name).is_file() for name in FILES)


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """False for what `format.read` is the reader of: versions 1 and 2, and what only looks like them."""
    source = Path(path)
    if source.is_dir():
        return True
    with open_file(source) as (fd, _, _):
        head = os.pread(fd, _HEAD_BYTES, 0)
    return not head.startswith(MAGIC) or _look_alike(head)


def read_foreign(path: str | os.PathLike[str]) -> Foreign:
    """Everything the file says, checked.

    Errors: FormatError, UnsupportedFormat (an unknown kind of file, or of adapter), InputError (no such file).
    """
    source = Path(path)
    beside = source.parent
    if source.is_dir():
        beside, files = source, [name for name in FILES if (source / name).is_file()]
        if len(files) != 1:
            raise UnsupportedFormat(
                "not an adapter folder", path=source, field="files", expected=f"one of {', '.join(FILES)}",
                found=", ".join(files) or "none of them",
            )  # fmt: skip
        source = source / files[0]
    fail, unsupported = failure(source, FormatError), failure(source, UnsupportedFormat)
    with open_file(source) as (fd, size, _):
        head = os.pread(fd, _HEAD_BYTES, 0)
        if head.startswith(MAGIC) and _look_alike(head):
            if head[16:18] == b'{"':
                name, entries = read_reference(fd, size, fail, unsupported)
                return Foreign(source, "the whitepaper's reference code", entries, name)
            return Foreign(source, "the Rust variant", read_rust(fd, size, fail, unsupported))
        if head.startswith(b"PK\x03\x04"):
            arrays = read_torch(fd, size, source, fail, unsupported)
        elif looks_like_tensors(head, size):
            arrays = read_tensors(fd, size, source, fail, unsupported)
        else:
            found = "torch's format before 1.6" if head.startswith(_LEGACY_TORCH) else _shown(head[:8])
            unsupported(
                "unknown kind of delta file",
                field="magic",
                expected="a .bitdelta, safetensors or torch file",
                found=found,
            )
    if has_masks(arrays):
        origin, entries = read_masks(arrays, fail)
        return Foreign(source, origin, entries)
    return _adapter(source, beside, arrays, fail, unsupported)


def _shown(head: bytes) -> str:
    """A file's first bytes as a reader can compare them: text where they are text, else hexadecimal."""
    return head.decode("ascii") if head.isascii() and head.decode("ascii").isprintable() else head.hex(" ")


def _look_alike(head: bytes) -> bool:
    """`BITDELTA` and version 1, but where our flags are 0 another program has a length or a number."""
    return int.from_bytes(head[8:12], "little") == 1 and len(head) >= 16 and head[12:16] != bytes(4)


def _adapter(source: Path, beside: Path, arrays: dict[str, Stored], fail: Fail, unsupported: Fail) -> Foreign:
    dtypes = sorted({stored.dtype for stored in arrays.values()})
    mlx, peft = is_mlx_adapter(arrays), is_peft_adapter(arrays)
    path = beside / CONFIG
    if not mlx and not peft and not path.is_file():
        unsupported("unknown kind of delta", field="names", expected="masks, lora_a, lora_A", found="others")
    config = _config(path)
    entries: dict[str, Entry]
    notes: tuple[str, ...] = ()
    if mlx or (not peft and "fine_tune_type" in config):
        origin, base, entries = "mlx-lm adapter", config.get("model"), read_mlx(arrays, config, fail, unsupported)
    else:
        base = config.get("base_model_name_or_path")
        origin, (entries, notes) = "PEFT adapter", read_peft(arrays, config, fail, unsupported)
    if not entries:
        fail("the file has no tensors", field="tensors", expected=">= 1", found=0)
    named = base if isinstance(base, str) and len(base) <= MAX_TEXT else ""
    facts = {"dtype": dtypes[0]} if len(dtypes) == 1 else {}
    return Foreign(source, origin, entries, base=named, facts=facts, notes=notes)


def _config(path: Path) -> Json:
    """adapter_config.json: without it nobody knows the scale."""
    try:
        with open_file(path) as (fd, size, _):
            data = os.pread(fd, min(size, MAX_JSON_BYTES), 0)
    except InputError as error:
        if path.exists():
            raise
        raise FormatError(
            "without its configuration the adapter's scale is unknown",
            path=path, field=CONFIG, expected="beside the adapter's file", found="no such file",
        ) from error  # fmt: skip
    fail = failure(path, FormatError)
    if size > MAX_JSON_BYTES:
        fail("the configuration is too large", field=CONFIG, expected=f"<= {MAX_JSON_BYTES} bytes", found=size)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        fail("not JSON", field=CONFIG, expected="an object", found=str(error)[:80])
    if not isinstance(value, dict):
        fail("not an object", field=CONFIG, expected="an object", found=type(value).__name__)
    return value
