"""A file of `torch.save`, an uncompressed zip of a pickle and one file per storage -> named arrays.

The archive is read without torch. Every storage that a tensor uses is checked against the length of the file before it
is read, and all tensors together take no more than twice the file: two names may share an array, thousands may not.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from pathlib import Path

import numpy as np

from ...format.spec import MAX_DIMS, MAX_TENSORS, Fail, show
from . import pickled
from .foreign import TYPES, Stored, check_name
from .pickled import StorageRef, TensorRef

_DIRECTORY_BYTES = 16 << 20
_PIECE_BYTES = 4 << 20


def read_torch(fd: int, size: int, path: Path, fail: Fail, unsupported: Fail) -> dict[str, Stored]:
    """The dictionary of tensors in the archive `fd`."""
    _check_directory(fd, size, fail)
    try:
        with os.fdopen(os.dup(fd), "rb") as file, zipfile.ZipFile(file) as archive:
            return _Archive(archive, size, fail, unsupported).tensors()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        fail("the archive is damaged", field="zip", expected="an archive of torch.save", found=str(error)[:80])
    except (struct.error, ValueError, OverflowError) as error:
        fail("the archive is damaged", field="zip", expected="an archive of torch.save", found=str(error)[:80])


def _check_directory(fd: int, size: int, fail: Fail) -> None:
    """The list of contents is small: `zipfile` makes an object of each entry before anyone can look."""
    end = os.pread(fd, 22, max(0, size - 22))
    if len(end) < 22 or end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
        fail("the archive is cut short", field="zip", expected="a directory at the end", found="something else")
    length = int.from_bytes(end[12:16], "little")
    locator = os.pread(fd, 20, size - 42) if size >= 42 else b""
    if locator[:4] == b"PK\x06\x07":
        at = int.from_bytes(locator[8:16], "little")
        record = os.pread(fd, 56, at) if at <= size - 56 else b""
        # zipfile looks right before the locator, wherever the locator says the record is.
        near = os.pread(fd, 56, size - 98) if size >= 98 else b""
        lengths = [int.from_bytes(each[40:48], "little") for each in (record, near) if len(each) == 56]
        length = max([length if length != 0xFFFFFFFF else 0, *lengths])
    if length > min(_DIRECTORY_BYTES, size):
        fail("the archive's directory is too large", field="zip", expected=f"<= {_DIRECTORY_BYTES} bytes", found=length)


class _Archive:
    def __init__(self, archive: zipfile.ZipFile, size: int, fail: Fail, unsupported: Fail) -> None:
        self.archive, self.size, self.fail = archive, size, fail
        self.left = 2 * size
        self.storages: dict[str, tuple[StorageRef, np.ndarray]] = {}
        self.views: dict[TensorRef, Stored] = {}
        pickles = [each for each in archive.namelist() if each.endswith("/data.pkl") and each.count("/") == 1]
        if len(pickles) != 1 or len(set(archive.namelist())) != len(archive.namelist()):
            fail("not an archive of torch.save", field="zip", expected="one data.pkl", found=f"{len(pickles)}")
        self.folder = pickles[0].removesuffix("data.pkl")
        order = f"{self.folder}byteorder"
        if order in archive.namelist() and bytes(self.content(order, 16)) != b"little":
            unsupported("unsupported byte order", field="byteorder", expected="little", found="something else")

    def content(self, name: str, limit: int) -> np.ndarray:
        """The bytes of an entry, at most `limit` of them."""
        try:
            info = self.archive.getinfo(name)
        except KeyError:
            self.fail("a part of the archive is missing", field=show(name), expected="a file", found="none")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            self.fail(
                "a part of the archive is compressed or encrypted",
                field=show(name),
                expected="stored as it is",
                found="packed",
            )
        if not 0 <= info.header_offset < self.size:
            expected = f"inside {self.size} bytes"
            self.fail("a part lies outside the archive", field=show(name), expected=expected, found=info.header_offset)
        if info.file_size > min(limit, self.size - info.header_offset):
            found = info.file_size
            self.fail("a part of the archive is too large", field=show(name), expected=f"<= {limit} bytes", found=found)
        out = np.empty(info.file_size, np.uint8)
        at = 0
        with self.archive.open(info) as file:
            while piece := file.read(_PIECE_BYTES):
                if at + len(piece) > out.size:
                    break
                out[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)
        if at != out.size:
            self.fail("a part of the archive is cut short", field=show(name), expected=f"{out.size} bytes", found=at)
        return out

    def tensors(self) -> dict[str, Stored]:
        root = pickled.load(self.content(f"{self.folder}data.pkl", pickled.MAX_PICKLE_BYTES).tobytes(), self.fail)
        if not isinstance(root, dict):
            found = type(root).__name__
            self.fail("not a dictionary of tensors", field="data.pkl", expected="name -> tensor", found=found)
        out: dict[str, Stored] = {}
        for name, value in root.items():
            check_name(name, out, self.fail, MAX_TENSORS)
            if not isinstance(value, TensorRef):
                self.fail("not a tensor", field=show(name), expected="a tensor", found=type(value).__name__)
            out[name] = self.view(name, value)
        return out

    def view(self, name: str, ref: TensorRef) -> Stored:
        """The strided view as an array; one that was asked for before is shared (tied parameters)."""
        if len(ref.shape) > MAX_DIMS:
            self.fail("bad shape", field=show(name), expected=f"0 to {MAX_DIMS} dimensions", found=len(ref.shape))
        count = math.prod(ref.shape)
        last = ref.offset + sum((dim - 1) * stride for dim, stride in zip(ref.shape, ref.strides, strict=True))
        if count == 0 or last >= ref.storage.count or count > ref.storage.count:
            found = f"{ref.shape} of {ref.storage.count} elements"
            self.fail("a tensor extends past its storage", field=show(name), expected="inside it", found=found)
        self.left -= count * np.dtype(TYPES[ref.storage.dtype]).itemsize
        if self.left < 0:
            expected = f"<= {2 * self.size} bytes"
            self.fail("the tensors are larger than the file", field=show(name), expected=expected, found="more")
        if ref in self.views:
            return self.views[ref]
        storage = self.storage(name, ref.storage)
        strides = tuple(stride * storage.itemsize for stride in ref.strides)
        view = np.lib.stride_tricks.as_strided(storage[ref.offset :], ref.shape, strides, writeable=False)
        self.views[ref] = Stored(ref.storage.dtype, np.ascontiguousarray(view).reshape(ref.shape))
        return self.views[ref]

    def storage(self, name: str, ref: StorageRef) -> np.ndarray:
        if ref.key in self.storages and self.storages[ref.key][0] == ref:
            return self.storages[ref.key][1]
        if ref.key in self.storages:
            self.fail("a storage has two types", field=show(name), expected="one", found=show(ref.key))
        raw = self.content(f"{self.folder}data/{ref.key}", self.size)
        dtype = np.dtype(TYPES[ref.dtype])
        if raw.size != ref.count * dtype.itemsize:
            expected = f"{ref.count * dtype.itemsize} bytes"
            self.fail("a storage has the wrong size", field=show(name), expected=expected, found=raw.size)
        if ref.dtype == "BOOL" and raw.size and raw.max() > 1:
            self.fail("a boolean is neither 0 nor 1", field=show(name), expected="0 or 1", found=int(raw.max()))
        self.storages[ref.key] = (ref, raw.view(dtype))
        return self.storages[ref.key][1]
