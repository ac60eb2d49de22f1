"""A safetensors file -> named arrays. The package checks the header; the bytes are read here, for NumPy has no bfloat16."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from ...format.flat_bits import read_exactly
from ...format.spec import MAX_DIMS, Fail, show
from .foreign import TYPES, Stored, check_name

_MAX_HEADER_BYTES = 32 << 20


def looks_like_tensors(head: bytes, size: int) -> bool:
    """Whether a file that begins with `head` is meant as safetensors: a header's length, then `{`."""
    return len(head) >= 9 and 2 <= int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{"


def read_tensors(fd: int, size: int, path: Path, fail: Fail, unsupported: Fail) -> dict[str, Stored]:
    """All tensors of the file."""
    from safetensors import SafetensorError, safe_open

    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if length > min(_MAX_HEADER_BYTES, size - 8):
        fail("the header is too large", field="header", expected=f"<= {_MAX_HEADER_BYTES} bytes", found=length)
    try:
        with safe_open(path, framework="numpy") as handle:
            names = sorted(handle.keys())
        header = json.loads(os.pread(fd, length, 8))
        listed = [(name, header[name]) for name in names]
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        fail("the header is damaged", field="header", expected="a sound header", found=str(error).splitlines()[0][:80])
    out: dict[str, Stored] = {}
    for name, entry in listed:
        check_name(name, out, fail)
        if entry["dtype"] not in TYPES:
            unsupported("unsupported number type", field=show(name), expected=sorted(TYPES), found=show(entry["dtype"]))
        if len(entry["shape"]) > MAX_DIMS or 0 in entry["shape"]:
            fail("bad shape", field=show(name), expected=f"0 to {MAX_DIMS} dimensions > 0", found=entry["shape"][:9])
        begin, end = entry["data_offsets"]
        data = read_exactly(fd, 8 + length + begin, end - begin)
        if data is None:
            fail("the file shrank during reading", field=show(name), expected=end - begin, found="end of file")
        values = np.frombuffer(data, TYPES[entry["dtype"]]).reshape(entry["shape"])
        out[name] = Stored(entry["dtype"], values)
    return out
