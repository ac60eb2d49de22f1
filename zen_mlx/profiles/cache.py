"""Profiles in memory within a byte budget: the least recently used one is dropped first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ..adapter.attach import Resident

DEFAULT_MAX_BYTES = 4 << 30


class ResidentProfiles:
    """Resident profiles by key (a file's digest), at most `max_bytes` of arrays; the newest always stays."""

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, Resident] = OrderedDict()

    def get(self, key: str, load: Callable[[], Resident]) -> Resident:
        """The profile of `key`, loaded when it is not in memory; others are dropped to make room."""
        resident = self._kept.get(key)
        if resident is None:
            resident = load()
            self._kept[key] = resident
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and self.nbytes > self.max_bytes:
            self._kept.popitem(last=False)
        return resident

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays kept."""
        return sum(resident.nbytes for resident in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)
