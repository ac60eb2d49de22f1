"""Prompt caches (KV caches) of finished rows, kept by profile: a prompt that begins like one of them is read from there on.

On mlx-lm's `LRUPromptCache`, one for each profile's digest, so that a cache is never read under another profile, goes with its
profile, and no profile can push out everybody's: what is over the limit is taken from the one that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Cache = list[Any]
DEFAULT_MAX_BYTES = 1 << 30
_PER_PROFILE = 32  # conversations


class PromptCaches:
    """At most `max_bytes` of arrays for all profiles together."""

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self._kept: dict[str, Any] = {}

    def fetch(self, key: str, ids: Sequence[int]) -> tuple[Cache | None, int]:
        """(a copy of the cache that holds most of the beginning of `ids`, how many tokens that is): at least one is left."""
        from mlx_lm.models.cache import can_trim_prompt_cache, trim_prompt_cache

        if key not in self._kept:
            return None, 0
        cache, rest = self._kept[key].fetch_nearest_cache(key, list(ids))
        if cache is not None and not rest:
            if not can_trim_prompt_cache(cache):
                return None, 0
            rest = [trim_prompt_cache(cache, 1)]
        return (None, 0) if cache is None else (cache, len(ids) - len(rest))

    def put(self, key: str, tokens: Sequence[int], cache: Cache) -> None:
        """Keep the cache of `tokens`."""
        from mlx_lm.models.cache import LRUPromptCache

        if key not in self._kept:
            self._kept[key] = LRUPromptCache(_PER_PROFILE, self.max_bytes)
        self._kept[key].insert_cache(key, list(tokens), cache)
        while (excess := self.nbytes - self.max_bytes) > 0:
            most = max(self._kept.values(), key=lambda kept: kept.nbytes)
            most.trim_to(n_bytes=most.nbytes - excess)

    def drop(self, key: str) -> None:
        """Forget everything of one profile."""
        self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    @property
    def nbytes(self) -> int:
        return sum(int(kept.nbytes) for kept in list(self._kept.values()))
