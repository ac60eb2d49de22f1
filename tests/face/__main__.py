"""Writes tests/golden/face.json anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.conftest import save_tiny_llama  # first: it brings the fast BLAS and shuts the hub out

from . import FACE, record

with tempfile.TemporaryDirectory() as scratch:
    place = Path(scratch)
    (place / "run").mkdir()
    face = record(save_tiny_llama(place / "tiny-llama"), place / "run")
FACE.write_text(json.dumps(face, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
