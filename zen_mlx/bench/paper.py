"""The whitepaper's tables, measured on this machine beside the paper's own numbers.

sizes       4.1  whole files from the dimensions of real models
quality     4.2  perplexity of base, fine-tune and profile on held-out conversations
latency     4.3  loading and switching at the paper's dimensions
rate        6.2  error and retention against the ratio; needs a fine-tune
memory      Appendix B  peak memory while a profile is applied
perplexity  Appendix B  windows of plain text
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..base.registry import DEFAULT_MODEL
from ..errors import ProfileNotFoundError
from ..events import Progress
from ..fsio import Json
from ..manager import ZenPersonalizationManager
from ..paths import examples_dir
from ..profiles.store import ProfileStore
from .options import Options
from .paper_latency import measure_latency, measure_memory
from .paper_quality import DOMAINS, measure_perplexity, measure_quality
from .paper_rate import measure_rate
from .paper_sizes import measure_sizes

BASE = DEFAULT_MODEL
HINT = "give --finetune FOLDER, a full fine-tune of the base (scripts/closed_form.py makes one)"


def measure(options: Options, report: Progress) -> Json:
    """The table's document: one entry a part, named as above; "rate" is None without `options.finetune`."""
    report("sizes", 0, None)
    sizes = measure_sizes()
    with tempfile.TemporaryDirectory(prefix="zen-bench-") as folder:
        kept = ZenPersonalizationManager(BASE, home=folder)
        files = [_file(name) for name in options.profiles] or [examples_dir() / f"{name}.bitdelta" for name in DOMAINS]
        memory = measure_memory(kept.base.info.path, max(files, key=lambda file: file.stat().st_size), report)
        names = [kept.import_profile(file) for file in files]
        perplexity = measure_perplexity(kept, names, options.text, options.quick, report)
        rate = measure_rate(kept, options.finetune, options.data, options.quick, report)
        quality = measure_quality(kept, names, rate, options.quick, report)
    return {
        "base": BASE,
        "sizes": sizes,
        "quality": quality,
        "latency": measure_latency(options.quick, report),
        "rate": rate,
        "rate_hint": None if rate else HINT,
        "memory": memory,
        "perplexity": perplexity,
    }


def _file(name: str) -> Path:
    """A profile's file: of this name among the kept ones, or a path."""
    store = ProfileStore(ZenPersonalizationManager(BASE).home)
    if Path(name).suffix == ".bitdelta" and Path(name).is_file():
        return Path(name)
    if not store.exists(name):
        raise ProfileNotFoundError("no such profile", field="--profile", found=name)
    return store.path(name)
