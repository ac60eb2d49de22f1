"""zen inspect: the content of a profile's file, verified, without its base. Imports no mlx."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _view
from ._options import AsJson

if TYPE_CHECKING:
    from ..codec.parts import Part
    from ..format.spec import Facts, Profile


_WHO = {"base": "base", "profile": "profile", "reference": "full fine-tune"}


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .bitdelta file.")],
    as_json: AsJson = False,
) -> None:
    """Say what a .bitdelta file holds, without applying it.

    Every byte is verified. The base is not needed.

    Examples:

    \b
      zen inspect cynic.bitdelta
      zen inspect cynic.bitdelta --json
    """
    from ..format.read import read

    profile = read(file)
    if as_json:
        _view.emit(document(profile))
    else:
        print_profile(profile)


def facts_document(facts: Facts) -> dict[str, Any]:
    """What a header says, as JSON."""
    return {
        "path": None if facts.path is None else str(facts.path),
        "version": facts.version,
        "file_bytes": facts.file_bytes,
        "sha256": facts.sha256,
        "bits_per_weight": facts.bits_per_weight,
        "ratio_fp32": facts.ratio_fp32,
        "ratio_fp16": facts.ratio_fp16,
        "target_count": facts.target_count,
        "model_count": facts.model_count,
        "profile": facts.info,
        "base": facts.base,
        "metrics": facts.metrics,
    }


def document(profile: Profile) -> dict[str, Any]:
    """The document of `zen inspect --json`."""
    tensors = [
        {
            "name": name,
            "shape": list(tensor.shape),
            "parts": [_part(part) for part in tensor.parts],
            "bytes": tensor.nbytes,
        }
        for name, tensor in profile.tensors.items()
    ]
    return {**facts_document(profile), "verified": True, "tensors": tensors}


def print_facts(facts: Facts) -> None:
    """The header for people."""
    base = facts.base
    lines = [
        ("name", facts.info.get("name")),
        ("base", f"{base.get('model') or '-'}{'' if base.get('verified') else ' (unverified)'}"),
        ("base's weights", base.get("weights") if base.get("verified") else "not recorded: shapes are checked only"),
        ("base's function", base.get("function") or ("not recorded: not compared" if base.get("verified") else None)),
        ("method", facts.info.get("method")),
        ("imported from", facts.info.get("origin")),
        ("created", facts.info.get("created")),
        ("made by", facts.info.get("tool")),
        ("license", facts.info.get("license")),
        ("format", f"version {facts.version}"),
        ("size", _view.size(facts.file_bytes)),
        ("bits per weight", _view.number(facts.bits_per_weight)),
        ("smaller by", f"{_view.number(facts.ratio_fp32, 1)}x than f32, {_view.number(facts.ratio_fp16, 1)}x than f16"),
        ("sha256", facts.sha256),
    ]
    proof = {f"{who}_{what}" for who in _WHO for what in ("loss", "perplexity", "agreement")}
    rest = sorted(facts.metrics.items())
    lines += [(key, _metric(value)) for key, value in rest if value is not None and key not in proof]
    for label, value in lines:
        if value not in (None, ""):
            _view.say(f"  {_view.printable(str(label)):<18}{_view.printable(str(value))}")
    _print_proof(facts.metrics)


def _print_proof(metrics: dict[str, Any]) -> None:
    """Held-out loss, perplexity and token agreement of the base, the profile and the fine-tune, where they were measured."""
    losses = {who: metrics.get(f"{who}_loss") for who in _WHO}
    if not any(isinstance(loss, (int, float)) for loss in losses.values()):
        return
    heads = ("loss", "perplexity", "token agreement")
    listing = _view.table("on held-out rows", *heads, right=heads)
    for who, label in _WHO.items():
        loss, agreement = losses[who], metrics.get(f"{who}_agreement")
        if not isinstance(loss, (int, float)):
            continue
        perplexity = math.exp(min(loss, 709.0))
        shown = f"{100 * agreement:.1f} %" if isinstance(agreement, (int, float)) else "-"
        listing.add_row(label, _view.number(loss), f"{perplexity:.1f}", shown)
    _view.show(listing)


def print_profile(profile: Profile) -> None:
    """Header, and the tensors in groups of the same name but for the numbers in it."""
    print_facts(profile)
    groups: dict[tuple[str, tuple[int, ...], str], list[int]] = {}
    for name, tensor in profile.tensors.items():
        kinds = " + ".join(_kind(_part(part)) for part in tensor.parts)
        key = (re.sub(r"(?<=\.)\d+(?=\.)", "*", name), tensor.shape, kinds)
        group = groups.setdefault(key, [0, 0])
        group[0] += 1
        group[1] += tensor.nbytes
    listing = _view.table("tensors", "count", "shape", "kept as", "size", right=("count", "size"))
    for (pattern, shape, kinds), (count, nbytes) in groups.items():
        shape_text = " x ".join(map(str, shape))
        listing.add_row(_view.cell(pattern), str(count), shape_text, _view.cell(kinds), _view.size(nbytes))
    _view.show(listing)
    _view.say(f"  {len(profile.tensors)} tensors, every byte verified")


def _part(part: Part) -> dict[str, Any]:
    """The header's description of a part, and the number of rows where it has some."""
    from ..format.layout import layout_of, row_count

    count = row_count([part])
    return layout_of(part) | ({} if count is None else {"rows": count})


def _kind(entry: dict[str, Any]) -> str:
    """`sign, row scale f16`, `factor, rank 32 at 4 bits, 64 at 2, u and v f16`, `12 rows f16`, `dense f16`."""
    kind, dtype = entry["kind"], entry["dtype"]
    if kind == "sign":
        block = f" {entry['block']}" if "block" in entry else ""
        return f"sign, {entry['scale']}{block} scale {dtype}"
    if kind == "factor":
        (bits, rank), *more = entry["groups"]
        ranks = ", ".join([f"rank {rank} at {bits} bit{'s' * (bits > 1)}", *(f"{g} at {b}" for b, g in more)])
        vectors = " and ".join(name for name in ("u", "v") if entry[name])
        return f"factor, {ranks}" + (f", {vectors} {dtype}" if vectors else "")
    if kind == "rows":
        return f"{entry['rows']} row{'s' * (entry['rows'] != 1)} {dtype}"
    return f"{kind} {dtype}"


def _metric(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
