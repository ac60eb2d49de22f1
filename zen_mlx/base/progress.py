"""How a fetch tells its caller where it is: `progress(description, done_bytes, total_bytes | None)`."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]


def report(progress: Progress | None, description: str, done: int, total: int | None) -> None:
    """Call `progress` if there is one."""
    if progress is not None:
        progress(description, done, total)
