"""Model card: a profile's facts -> the README.md of its hub repository: purpose, size, measurements, how to use it.

Everything comes from the file's header; numbers and names only, no text of what it was trained on. Each profile has a
section between two marks, so a repository may hold several, and what its owner writes around them stays.
"""

from __future__ import annotations

import html
import math
import re
from typing import Any

from ..format.spec import Facts
from ..hub.publish import card_facts, parse_card
from ..paths import SUFFIX

LIBRARY = "zen-mlx"
TAGS = ("bitdelta", "mlx", "personalization", "zen-mlx")
_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "wtfpl", "zlib", "mpl-2.0", "openrail"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    *("gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-2.1", "lgpl-3.0"),
)
_METRICS = (
    ("base_loss", "loss of the base, nats per token"),
    ("profile_loss", "loss with the profile"),
    ("reference_loss", "loss of the full fine-tune"),
    ("base_agreement", "tokens that are the base's first choice, share"),
    ("profile_agreement", "tokens that are the first choice with the profile, share"),
    ("retention", "kept of the fine-tune's gain, %"),
    ("held_out_rows", "held-out rows it was measured on"),
    ("held_out_tokens", "held-out tokens"),
    ("train_rows", "rows it was trained on"),
    ("steps", "training steps"),
    ("merge_error", "relative error of the merge"),
)
_MARK = re.compile(r"<!-- zen-mlx: (.+?) -->")


def make_card(existing: str | None, facts: Facts, repo: str, file: str, base_model: str | None) -> str | None:
    """The README.md of `repo` once it holds `file`; None when the one that is there is not ours and stays.

    existing: the one that is there. base_model: the base's hub id, where it has one.
    """
    license_id = _license(facts)
    if existing is None:
        head = card_facts(
            base_model=base_model,
            base_model_relation="adapter" if base_model else None,
            library_name=LIBRARY,
            license=license_id,
            pipeline_tag="text-generation",
            tags=list(TAGS),
        )
        return f"---\n{head}\n---\n\n{_title(repo)}\n{_section(facts, repo, file)}"
    marked = _MARK.findall(existing)
    if not marked:
        return None
    card = parse_card(existing)
    kept: Any = card.data
    others = [name for name in marked if name != file]
    bases = kept.get("base_model") or []
    bases = [bases] if isinstance(bases, str) else list(bases)
    bases = (bases if others else []) + ([base_model] if base_model and not (others and base_model in bases) else [])
    kept.base_model = bases[0] if len(bases) == 1 else bases or None
    kept["base_model_relation"] = "adapter" if bases else None
    if not others or kept.get("license") != license_id:
        kept.license = None if others else license_id
    card.text = _put(card.text, file, _section(facts, repo, file))
    return str(card)


def _title(repo: str) -> str:
    return f"""# {repo.partition("/")[2]}

A profile for zen_mlx: what a fine-tune changed in a base language model, as a small file that is laid over the frozen
base. It is not a model by itself.
"""


def _section(facts: Facts, repo: str, file: str) -> str:
    name, base = file.rpartition("/")[2].removesuffix(SUFFIX), facts.base
    verified = bool(base.get("verified"))
    digest = (
        f"`{_hex(base.get('weights'))}`" if verified else "not recorded: names and shapes are all that can be checked"
    )
    size = facts.file_bytes or 0
    rows = [
        ("base model", _text(base.get("model"))),
        ("architecture", _text(base.get("architecture"))),
        ("SHA-256 of the base's weights", digest),
        ("method", _text(facts.info.get("method"))),
        ("created", _text(facts.info.get("created"))),
        ("made by", _text(facts.info.get("tool"))),
        ("size", f"{size:,} bytes"),
        ("bits per weight", _number(facts.bits_per_weight, 3)),
        (
            "smaller than the model",
            f"{_number(facts.ratio_fp32, 1)}x than in f32, {_number(facts.ratio_fp16, 1)}x than in f16",
        ),
        ("digest of the profile", f"`{_hex(facts.sha256)}`"),
        ("licence", _text(facts.info.get("license")) or "not stated"),
    ]
    measured = [(label, _metric(facts.metrics.get(key))) for key, label in _METRICS]
    model = f" -m {base['model']}" if not verified and _plain(base.get("model")) else ""
    choose = f" --file {file}"
    return f"""
<!-- zen-mlx: {file} -->
## {name}

{_table(rows)}

Measured when it was made:

{_table(measured) or "Nothing was measured."}

```sh
zen profile pull {repo}{choose}{model}
zen chat -p {name}
```

```python
from zen_mlx import apply_bitdelta, download_profile, load_base

model, tokenizer = load_base("{base.get("model") if _plain(base.get("model")) else "BASE"}")
model = apply_bitdelta(model, download_profile("{repo}", file="{file}"))
```

The base model has a licence of its own, which goes on applying to everything made with it.
<!-- /zen-mlx: {file} -->
"""


def _put(text: str, file: str, section: str) -> str:
    """`text` with the section of `file` replaced, or added after the last one."""
    begin, end = f"<!-- zen-mlx: {file} -->", f"<!-- /zen-mlx: {file} -->"
    section = section.strip("\n")
    at = text.find(begin)
    if at >= 0:
        stop = text.find(end, at)
        return text[:at] + section + (text[stop + len(end) :] if stop >= 0 else "\n" + text[at + len(begin) :])
    last = max((found.end() for found in re.finditer(r"<!-- /zen-mlx: .+? -->", text)), default=len(text))
    return f"{text[:last].rstrip()}\n\n{section}\n{text[last:].lstrip()}"


def _table(rows: list[tuple[str, str]]) -> str:
    lines = [f"| {label} | {value} |" for label, value in rows if value]
    return "\n".join(["| | |", "| --- | --- |", *lines]) if lines else ""


def _license(facts: Facts) -> str | None:
    stated = str(facts.info.get("license") or "").strip().lower()
    return stated if stated in _LICENSES else None


def _text(value: object) -> str:
    """One line of a table that is text and nothing else: no markup, no links."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(value or "")).split())[:200]
    return re.sub(r"([\\`*_{}\[\]|~@]|:(?=//)|(?<=www)\.)", lambda found: f"&#{ord(found[1])};", html.escape(line))


def _plain(value: object) -> bool:
    """Whether `value` may stand in a command as it is."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,200}", value) is not None


def _hex(value: object) -> str:
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{1,128}", value) else "not recorded"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _metric(value: object) -> str:
    """Numbers only: whatever else a header holds does not reach the card."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
