"""The encode and paper tables of `zen bench`, drawn for a terminal."""

from __future__ import annotations

from typing import Any

from . import _view


def show_encode(found: dict[str, Any]) -> None:
    """One pair of checkpoints."""
    how = "nothing in the page cache" if found["cold"] else "maybe in the page cache"
    listing = _view.table(f"Encoding {found['model']}, bf16, scale {found['scale']}", "")
    for label, text in (
        ("both checkpoints", _view.size(found["pair_bytes"])),
        (f"reading them, all cores, {how}", f"{found['read_s']:.1f} s, {found['read_gb_per_s']:.2f} GB/s"),
        ("encoding them, reading included", f"{found['encode_s']:.1f} s, {found['encode_gb_per_s']:.2f} GB/s"),
        ("speed of encoding to that of reading", f"{found['share']:.2f}"),
        ("stored", _view.size(found["stored_bytes"])),
        ("peak memory", _view.size(found["peak_bytes"])),
    ):
        listing.add_row(*map(_view.cell, (label, text)))
    _view.show(listing)


def show_paper(found: dict[str, Any]) -> None:
    """Each part under the whitepaper's number of it."""
    _sizes(found["sizes"])
    _quality(found["quality"])
    _latency(found["latency"])
    _rate(found)
    _memory(found["memory"])
    _perplexity(found["perplexity"])


def _sizes(rows: list[dict[str, Any]]) -> None:
    heads = ("file", "bits/weight", "than f32", "than f16", "of the LoRA")
    listing = _view.table("model", "codec", *heads, "the paper", title="4.1 Compression, whole files", right=heads)
    last = None
    for row in rows:
        new = row["model"] != last
        if new and last is not None:
            listing.add_section()
        paper = row["paper"]
        claim = f"{_view.size(paper['profile_bytes'])}, {paper['ratio']}x" if new and paper else ""
        values = [
            f"{row['model']}, {row['model_count'] / 1e9:.2f} B" if new else "",
            row["codec"],
            _view.size(row["file_bytes"]),
            _view.number(row["bits_per_weight"]),
            f"{row['ratio_fp32']:.1f}x",
            f"{row['ratio_fp16']:.1f}x",
            f"{row['over_lora']:.2f}",
            claim,
        ]
        last = row["model"]
        listing.add_row(*map(_view.cell, values))
    _view.show(listing)


def _quality(found: dict[str, Any]) -> None:
    heads = ("file", "base", "fine-tune", "profile", "retention")
    listing = _view.table("held-out data", "profile", *heads, title="4.2 Quality, perplexity", right=heads)
    for row in found["rows"]:
        values = [row["base"], row["fine_tune"], row["profile_perplexity"]]
        numbers = [*(_view.number(value, 1) for value in values), _percent(row["retention"])]
        listing.add_row(*map(_view.cell, [row["data"], row["profile"], _view.size(row["file_bytes"]), *numbers]))
    listing.add_section()
    for row in found["paper"]:
        values = [_view.number(row[key], 1) for key in ("base", "fine_tune", "profile")]
        listing.add_row(*map(_view.cell, [f"the paper: {row['task']}", "", "", *values, _percent(row["retention"])]))
    _view.show(listing)


def _latency(rows: list[dict[str, Any]]) -> None:
    heads = ("file", "load", "switch", "paper: load", "paper: switch")
    listing = _view.table("model", "", *heads, title="4.3 Loading and switching, one bit", right=heads)
    for row in rows:
        paper = row["paper"] or {}
        measured = [_time(row["load_s"]), _time(row["switch_s"])] if row["skipped"] is None else [row["skipped"], ""]
        claims = [_time(paper.get(key)) for key in ("load_s", "switch_s")]
        listing.add_row(
            *map(_view.cell, [row["model"], row["mode"], _view.size(row["file_bytes"]), *measured, *claims])
        )
    _view.show(listing)


def _rate(found: dict[str, Any]) -> None:
    rate = found["rate"]
    if rate is None:
        _view.say(f"6.2 Error and retention against the ratio: {found['rate_hint']}")
        return
    heads = ("file", "bits/weight", "than f32", "error", "paper's", "loss", "retention", "the paper's")
    title = (
        f"6.2 {rate['finetune']} on {rate['data']['path']}: base {rate['base_loss']:.4f}, "
        f"fine-tune {rate['reference_loss']:.4f}"
    )
    listing = _view.table("codec", *heads, title=title, right=heads)
    for row in rate["rows"]:
        values = [
            row["codec"],
            _view.size(row["file_bytes"]),
            _view.number(row["bits_per_weight"]),
            f"{row['ratio_fp32']:.1f}x",
            _view.number(row["error"]),
            _view.number(row["paper_error"]),
            _view.number(row["loss"], 4),
            _percent(row["retention"]),
            _percent(row["paper_retention"]),
        ]
        listing.add_row(*map(_view.cell, values))
    _view.show(listing)


def _memory(rows: list[dict[str, Any]]) -> None:
    heads = ("base", "file", "peak growth", "kept")
    listing = _view.table("mode", *heads, title="Appendix B: memory while a profile is read and applied", right=heads)
    for row in rows:
        sizes = [row[key] for key in ("base_bytes", "file_bytes", "peak_growth_bytes", "growth_bytes")]
        listing.add_row(*map(_view.cell, [row["mode"], *map(_view.size, sizes)]))
    _view.show(listing)


def _perplexity(found: dict[str, Any]) -> None:
    title = (
        f"Appendix B: perplexity of {found['text']} (sha256 {found['sha256'][:16]}...), "
        f"{found['windows']} windows of {found['window']} tokens"
    )
    listing = _view.table("profile", "loss", "perplexity", title=title, right=("loss", "perplexity"))
    for row in found["rows"]:
        values = [row["profile"] or "none", _view.number(row["loss"], 4), _view.number(row["perplexity"], 2)]
        listing.add_row(*map(_view.cell, values))
    _view.show(listing)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return (
        f"{seconds * 1e6:.0f} us"
        if seconds < 1e-3
        else f"{seconds * 1e3:.3g} ms"
        if seconds < 1
        else f"{seconds:.2f} s"
    )
