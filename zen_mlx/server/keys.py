"""API keys: the file that holds them, and the comparison of a key that a request presents.

    # one key on a line; a list of profiles limits the key to them, and `base` in it stands for the base alone
    zen-Yb1x...
    zen-8sKd... cynic,hacker,base

A key without a list may use every profile and the admin routes. Only digests of keys are kept in memory, and no error
quotes a line.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, NameInvalidError
from ..fsio import PRIVATE_FILE_MODE, make_dir, storage_errors
from ..paths import check_name

BASE = "base"
SHORTEST = 16
_KEY = re.compile(r"[\x21-\x7e]+")
_MOST_BYTES = 1 << 20
_COMMENT = "# API keys of zen serve, one on a line. KEY cynic,hacker,base: that key may use these profiles and the base only.\n"


@dataclass(frozen=True)
class Key:
    """digest: SHA-256 of the key. profiles: the names that it may use (`base`: the base alone); None: all, and admin."""

    digest: bytes
    profiles: frozenset[str] | None = None


class Keys:
    """The keys of one file."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def find(self, presented: bytes) -> Key | None:
        """The key that `presented` is; the time it takes does not depend on which key it is or on how near it comes."""
        digest = hashlib.sha256(presented).digest()
        found = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None

    def __len__(self) -> int:
        return len(self._keys)


def read_keys(path: str | os.PathLike[str]) -> Keys:
    """The keys in the file at `path`. InputError unless it is a regular file, yours, and closed to everyone else."""
    place = Path(path).expanduser()
    keys = [key for number, line in enumerate(_lines(place), 1) if (key := _parse(line, number, place)) is not None]
    if not keys:
        raise InputError("the key file holds no key", path=place, hint=f"write one into it: {_MAKE_ONE}")
    if len({key.digest for key in keys}) < len(keys):
        raise InputError("the key file holds the same key twice", path=place, hint="give each client a key of its own")
    return Keys(keys)


def create_keys(path: str | os.PathLike[str]) -> Path:
    """Write a new key file with one random key to `path`, which must not exist; returns its path."""
    place = Path(path).expanduser().absolute()
    make_dir(place.parent)
    with storage_errors(place):
        try:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE_MODE)
        except FileExistsError:
            raise InputError(
                "there is a file already", path=place, hint=f"add a line to it for another key: {_MAKE_ONE}"
            ) from None
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{_COMMENT}zen-{secrets.token_urlsafe(32)}\n")
    return place


_MAKE_ONE = "python3 -c 'import secrets; print(\"zen-\" + secrets.token_urlsafe(32))'"


def _lines(place: Path) -> list[str]:
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        known = "is a link" if place.is_symlink() else (error.strerror or "cannot be opened").lower()
        raise InputError(
            f"the key file cannot be used: {known}",
            path=place,
            expected="a regular file",
            hint="name the file itself; zen serve --new-key FILE makes one",
        ) from error
    try:
        _check_file(os.fstat(handle), place)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read()
    finally:
        os.close(handle)
    try:
        return data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise InputError("the key file is not ASCII text", path=place, field=f"byte {error.start}") from None


def _check_file(facts: os.stat_result, place: Path) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise InputError("the key file must be a regular file", path=place)
    if facts.st_uid != os.geteuid():
        raise InputError("the key file belongs to another user", path=place, hint=f"make a copy that is yours: {_COPY}")
    if facts.st_mode & 0o077:
        raise InputError(
            "others may read or change the key file",
            path=place,
            expected="mode 0600",
            found=f"mode {stat.S_IMODE(facts.st_mode):04o}",
            hint=f"chmod 600 {place}",
        )
    if facts.st_size > _MOST_BYTES:
        raise InputError("the key file is too large", path=place, expected=f"at most {_MOST_BYTES} bytes")


_COPY = "install -m 600 FILE COPY"


def _parse(line: str, number: int, place: Path) -> Key | None:
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    if len(words) > 2 or not _KEY.fullmatch(words[0]):
        raise InputError(
            "a line of the key file is not KEY or KEY PROFILE,PROFILE",
            path=place,
            field=f"line {number}",
            hint="no blanks between the names",
        )
    if len(words[0]) < SHORTEST:
        raise InputError(
            "a key is too short to be safe",
            path=place,
            field=f"line {number}",
            expected=f"at least {SHORTEST} characters",
            hint=f"make one: {_MAKE_ONE}",
        )
    names = frozenset(_name(name, number, place) for name in words[1].split(",")) if words[1:] else None
    return Key(hashlib.sha256(words[0].encode()).digest(), names)


def _name(name: str, number: int, place: Path) -> str:
    try:
        return name if name == BASE else check_name(name)
    except NameInvalidError as error:
        raise InputError(
            "the key file names a profile that cannot exist",
            path=place,
            field=f"line {number}",
            expected=error.expected,
            hint="the list stands after the key: KEY cynic,hacker,base",
        ) from None
