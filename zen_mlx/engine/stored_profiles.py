"""The profiles of a store that belong to one base, as their files are now: a header is read again when its file has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from ..adapter.resident import Resident
from ..base.loaded import Base, check_tokenizer
from ..errors import InputError, ZenError
from ..format.spec import Facts, Header, Profile


class Store(Protocol):
    """What is needed of `ProfileStore`."""

    def names(self) -> list[str]: ...
    def path(self, name: str) -> Path: ...
    def header(self, name: str) -> Header: ...
    def load(self, name: str) -> Profile: ...


class _Stamp(NamedTuple):
    """Tells one state of a file from another."""

    inode: int
    modified_ns: int
    nbytes: int


class StoredProfiles:
    """`backend.Profiles` of a store, for one base. For any thread."""

    def __init__(self, store: Store, base: Base) -> None:
        self._store = store
        self._base = base
        self._seen: dict[str, tuple[_Stamp, Facts]] = {}

    def names(self) -> list[str]:
        """The profiles that can be used with the base."""
        names = self._store.names()
        for gone in self._seen.keys() - names:
            self._seen.pop(gone, None)
        return [name for name in names if self._usable(name)]

    def _usable(self, name: str) -> bool:
        try:
            self.facts(name)
        except ZenError:
            return False
        return True

    def facts(self, name: str) -> Facts:
        """What its file says of it. ProfileNotFoundError, or what keeps it from being used with this base."""
        return self._look(name)[1]

    def key(self, name: str) -> str:
        """The digest of the file; for one without, what tells its present state from any other. Errors as `facts`."""
        stamp, facts = self._look(name)
        return facts.sha256 or f"{name}:{':'.join(map(str, stamp))}"

    def load(self, name: str) -> Resident:
        """The whole file, checked."""
        with self._or_gone(name):
            return Resident.from_profile(self._store.load(name))

    def _look(self, name: str) -> tuple[_Stamp, Facts]:
        with self._or_gone(name):
            status = self._store.path(name).stat()
            stamp = _Stamp(status.st_ino, status.st_mtime_ns, status.st_size)
            seen = self._seen.get(name)
            if seen is None or seen[0] != stamp:
                header = self._store.header(name)
                seen = stamp, Facts(**{each: getattr(header, each) for each in Facts.__dataclass_fields__})
                self._seen[name] = seen
        self._base.check(seen[1].base, name)
        check_tokenizer(self._base.info, seen[1].base, name)
        return seen

    @contextlib.contextmanager
    def _or_gone(self, name: str) -> Iterator[None]:
        """A file that was removed meanwhile is as one that never was."""
        try:
            yield
        except (InputError, FileNotFoundError):
            self._store.path(name)
            raise
