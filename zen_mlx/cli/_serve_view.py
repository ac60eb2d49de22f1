"""The serve table of `zen bench`, drawn for a terminal."""

from __future__ import annotations

from typing import Any

from . import _view

_SIDES = {"bare": "bare base", "base": "base", "one": "one profile", "eight": "8 profiles"}


def show_serve(found: dict[str, Any]) -> None:
    """Each part."""
    _rate(found["rate"])
    _kernel(found["kernel"])
    _loading(found["loading"])
    _memory(found["memory"])
    _people(found["people"])
    if found["peers"] is not None:
        _processes(found["peers"]["processes"], found["rate"])
        _servers(found["peers"]["servers"])


def _rate(rows: list[dict[str, Any]]) -> None:
    heads = ("streams", "tokens/s", "of bare", "of one", "first token", "a token")
    title = "Tokens per second of all streams (base, one, 8: on a model that holds 8 profiles)"
    listing = _view.table("profiles", heads[0], "rows", *heads[1:], title=title, right=heads)
    last = None
    for row in rows:
        group = (row["model"], row["kind"], row["streams"])
        new = group != last
        if new and last is not None:
            listing.add_section()
        last = group
        if row["skipped"] is not None:
            listing.add_row(*map(_view.cell, [row["model"], "", row["skipped"], "", "", "", "", ""]))
            continue
        values = [
            f"{row['model']}: {row['kind']}" if new else "",
            row["streams"] if new else "",
            _SIDES[row["side"]],
            _view.number(row["tokens_per_s"], 1),
            _view.number(row["over_bare"], 2),
            _view.number(row["over_one"], 2),
            _view.duration(row["first_token_s"]),
            _view.duration(row["token_s"]),
        ]
        listing.add_row(*map(_view.cell, values))
    _view.show(listing)


def _kernel(rows: list[dict[str, Any]]) -> None:
    heads = ("rows", "one profile", "8 profiles", "of one")
    listing = _view.table(*heads, title="One product of signs alone, 2560 wide", right=heads)
    for row in rows:
        times = [_view.duration(row[key]) for key in ("one_s", "eight_s")]
        listing.add_row(*map(_view.cell, [row["rows"], *times, _view.number(row["over_one"], 2)]))
    _view.show(listing)


def _loading(rows: list[dict[str, Any]]) -> None:
    lines = {
        "step_s": "median from one token to the next",
        "steady_gap_s": "longest, nothing being loaded",
        "gap_s": "longest while a profile is loaded",
        "delay_s": "longer than the median by",
        "join_gap_s": "longest while the new stream's prompt is read",
        "load_s": "from the request to the profile's slots",
    }
    if not rows:
        return
    title = f"A profile loaded beside {rows[0]['streams']} streams"
    listing = _view.table("", *(f"{row['model']}: {row['kind']}" for row in rows), title=title)
    for key, label in lines.items():
        listing.add_row(*map(_view.cell, [label, *(_view.duration(row[key]) for row in rows)]))
    held = ["yes" if row["holds"] else "no" for row in rows]
    listing.add_row(*map(_view.cell, ["delayed by at most a step and 20 ms", *held]))
    _view.show(listing)


def _memory(rows: list[dict[str, Any]]) -> None:
    heads = ("number", "files", "slots", "slots / files", "process grew by", "kept free by MLX")
    title = "Memory of profiles of SmolLM2-135M's dimensions"
    listing = _view.table("profiles", *heads, title=title, right=heads)
    last = None
    for row in rows:
        new = row["kind"] != last
        if new and last is not None:
            listing.add_section()
        last = row["kind"]
        sizes = [row[key] for key in ("file_bytes", "slot_bytes")]
        rest = [_view.size(row["process_bytes"]), _view.size(row["mlx_cache_bytes"])]
        values = [
            row["kind"] if new else "",
            row["profiles"],
            *map(_view.size, sizes),
            _view.number(row["ratio"]),
            *rest,
        ]
        listing.add_row(*map(_view.cell, values))
    _view.show(listing)


def _people(found: dict[str, Any]) -> None:
    heads = ("people", "base", "their profiles", "together", "a copy each", "times more")
    title = f"5.2 One server for many people, {found['model']} in f16: computed, not measured"
    listing = _view.table("profiles", *heads, title=title, right=heads)
    for row in found["rows"]:
        together = row["base_bytes"] + row["profiles_bytes"]
        sizes = [row["base_bytes"], row["profiles_bytes"], together, row["copies_bytes"]]
        listing.add_row(*map(_view.cell, [row["kind"], row["people"], *map(_view.size, sizes), f"{row['ratio']:.1f}x"]))
    listing.add_section()
    paper = found["paper"]
    together = paper["base_bytes"] + paper["profiles_bytes"]
    sizes = [paper["base_bytes"], paper["profiles_bytes"], together, paper["copies_bytes"]]
    times = f"{paper['copies_bytes'] / together:.1f}x"
    listing.add_row(*map(_view.cell, ["the paper", paper["people"], *map(_view.size, sizes), times]))
    _view.show(listing)


def _processes(found: dict[str, Any], rate: list[dict[str, Any]]) -> None:
    if found["tokens_per_s"] is None:
        return
    models = found["models"]
    listing = _view.table(
        f"{models} models at once: {found['model']}", "tokens/s", "memory", right=("tokens/s", "memory")
    )
    speed = _view.number(found["tokens_per_s"], 1)
    label = f"a process each (mlx-lm, merged), {models} x one: computed"
    listing.add_row(*map(_view.cell, [label, speed, _view.size(found["all_bytes"])]))
    for row in rate:
        if (row["model"], row["kind"], row["streams"], row["side"]) == (found["model"], "sign", models, "eight"):
            listing.add_row(
                *map(_view.cell, ["one batch of as many profiles", _view.number(row["tokens_per_s"], 1), ""])
            )
    _view.show(listing)


def _servers(rows: list[dict[str, Any]]) -> None:
    heads = ("the one before", "in turn with another", "a new one", "8 at once, 2 profiles")
    title = f"Requests for {rows[0]['tokens']} tokens, by their profile"
    listing = _view.table("server", *heads, title=title, right=heads)
    for row in rows:
        times = [_view.duration(row[key]) for key in ("same_s", "other_s", "new_s", "eight_s")]
        listing.add_row(*map(_view.cell, [row["server"], *times]))
    _view.show(listing)
