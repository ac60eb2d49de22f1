"""Writes tests/golden/face.json anew. Arguments: files that hold a document of `zen bench TABLE --json` each."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.conftest import save_tiny_llama  # first: it brings the fast BLAS and shuts the hub out

from . import DEAR, FACE, load, record
from .shape import shape

with tempfile.TemporaryDirectory() as scratch:
    place = Path(scratch)
    (place / "run").mkdir()
    face = record(save_tiny_llama(place / "tiny-llama"), place / "run")
if FACE.exists():
    face["documents"] |= {name: types for name, types in load()["documents"].items() if name in DEAR}
for file in sys.argv[1:]:
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    face["documents"][f"zen bench {next(iter(document['tables']))}"] = shape(document)
FACE.write_text(json.dumps(face, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
