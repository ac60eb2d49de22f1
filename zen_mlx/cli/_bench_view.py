"""The document of `zen bench`, drawn for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _paper_view, _serve_view, _view


def show(document: dict[str, Any]) -> None:
    """The machine, then each table."""
    machine, versions = document["machine"], document["versions"]
    _view.say(
        f"{machine['name']}, {machine['backend']}, {machine['cpus']} CPUs, {_view.size(machine['memory_bytes'])}; "
        f"{machine['system']}; MLX {versions['mlx']}, BLAS {versions['blas']}; {document['date']}"
    )
    for name, found in document["tables"].items():
        VIEWS[name](found)


def _kernels(found: dict[str, Any]) -> None:
    _view.say(
        f"copy bandwidth {found['copy_gb_per_s']:.1f} GB/s; an operation on a few numbers takes "
        f"{_time(found['launch_s'])}; {found['dtype']}; medians of {found['rounds']} rounds"
    )
    launches = found["launches"]
    bases = [key for key in launches[0] if key.startswith("over_")]
    peers = {"mlx_1bit_speedup": "MLX 1-bit / time", "triton_speedup": "Triton / time"}
    peers = {key: head for key, head in peers.items() if any(row[key] is not None for row in launches)}
    heads = [*(f"time / {key.removeprefix('over_')}" for key in bases), *peers.values()]
    right = ("M", "time", "GB/s", "of copy", *heads)
    listing = _view.table("shape", "M", "", "time", "GB/s", "of copy", *heads, title="Kernels (* fastest)", right=right)
    last: tuple[str, int | None] = ("", None)
    for row in launches:
        shape, m = _shape(row), row["m"]
        if shape != last[0] and last[0]:
            listing.add_section()
        values = [
            shape if shape != last[0] else "",
            str(m) if (shape, m) != last else "",
            row["name"] + (" *" if row["fastest"] else ""),
            _time(row["seconds"]),
            _times(row["gb_per_s"]),
            f"{row['copy_percent']:.1f} %",
            *(_times(row[key]) for key in (*bases, *peers)),
        ]
        last = (shape, m)
        listing.add_row(*map(_view.cell, values))
    _view.show(listing, _fastest(launches))
    if not found["decode"]:
        return
    listing = _view.table(
        "model", "profile", "tokens/s", "share", title="Decoding one token after the other", right=("tokens/s", "share")
    )
    for row in found["decode"]:
        speed = row["skipped"] or _view.number(row["tokens_per_s"], 2)
        values = [row["model"], row["profile"] or "none", speed, _view.number(row["share"])]
        listing.add_row(*map(_view.cell, values))
    _view.show(listing)


def _fastest(launches: list[dict[str, Any]]) -> Any:
    """Which kernel wins at which number of rows: the thresholds of dispatch."""
    rows = sorted({row["m"] for row in launches})
    names: dict[str, dict[int, str]] = {}
    for row in launches:
        if row["fastest"]:
            names.setdefault(_shape(row), {})[row["m"]] = row["name"]
    listing = _view.table("shape", *(f"M = {m}" for m in rows), title="Fastest kernel")
    for shape, winners in names.items():
        listing.add_row(*map(_view.cell, [shape, *(winners[m] for m in rows)]))
    return listing


def _switch(found: dict[str, Any]) -> None:
    rows = found["rows"]
    listing = _view.table("Switching", *(f"{row['mode']}: {row['model']}" for row in rows))
    lines: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
        ("the switch itself", lambda row: _time(row["switch_s"])),
        ("one decoded token", lambda row: _time(row["token_s"])),
        ("one decoded token, with a switch before it", lambda row: _time(row["token_after_switch_s"])),
        ("with over without, median of pairs", lambda row: _times(row["first_token_ratio"])),
        ("profile file", lambda row: _view.size(row["file_bytes"])),
        ("first load of the file into MLX arrays, verified", lambda row: _time(row["load_s"])),
        ("first load of the same bytes through NumPy, unverified", lambda row: _time(row["plain_read_s"])),
        ("speed of the load to that of NumPy", lambda row: _times(row["load_speed_share"])),
        ("base + merged weights + profile", lambda row: _view.size(_needed(row))),
        ("peak growth of the process", lambda row: _view.size(row["peak_bytes"])),
        ("peak over needed", lambda row: _view.number(row["peak_over_needed"])),
    )
    for label, text in lines:
        listing.add_row(*map(_view.cell, [label, *(text(row) for row in rows)]))
    _view.show(listing)


def _needed(row: dict[str, Any]) -> int:
    return int(row["base_bytes"] + row["merged_bytes"] + row["resident_bytes"])


def _shape(row: dict[str, Any]) -> str:
    return f"{row['label']} {row['shape']}".strip()


def _time(seconds: float) -> str:
    """Three digits and a unit: 4.12 us, 931 us, 12.3 ms, 1.25 s."""
    for factor, unit in ((1e6, "us"), (1e3, "ms"), (1.0, "s")):
        value = seconds * factor
        if value < 999.5 or unit == "s":
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    raise AssertionError("unreachable")


def _times(value: float | None) -> str:
    """A ratio in three digits."""
    if value is None:
        return ""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


VIEWS: dict[str, Callable[[dict[str, Any]], None]] = {
    "kernels": _kernels,
    "switch": _switch,
    "encode": _paper_view.show_encode,
    "paper": _paper_view.show_paper,
    "serve": _serve_view.show_serve,
}
