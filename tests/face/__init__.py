"""The public face as data: what a script, a program or a person's disk can hold on to.

`python -m tests.face` writes tests/golden/face.json anew; the documents of `DEAR` it takes from files named in addition,
else as they were. The wording of help and messages is no part of it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

FACE = Path(__file__).parent.parent / "golden" / "face.json"

DEAR = ("zen bench switch", "zen bench encode", "zen bench paper")
"""Documents that take too long to be made here: the tests that make them call `lost_of`."""


def load() -> dict[str, Any]:
    """The recorded face."""
    recorded: dict[str, Any] = json.loads(FACE.read_text(encoding="utf-8"))
    return recorded


def read_off() -> dict[str, Any]:
    """The part of today's face that needs no command to run."""
    from . import names
    from .commands import commands

    known = load()["python"] if FACE.exists() else {}
    return {"commands": commands(), "variables": names.variables(), "python": names.public(known)}


def record(tiny: Path, scratch: Path) -> dict[str, Any]:
    """Today's face. `tiny`: the folder of a small base; `scratch`: an empty folder to run the commands in."""
    from . import documents, names

    ran = documents.run_all(tiny, scratch)
    return read_off() | {
        "documents": ran.documents,
        "files": ran.files,
        "chat_commands": ran.chat_commands,
        "exit_codes": ran.exit_codes,
        "errors": names.errors(ran.error_codes),
        "keywords": ran.keywords,
    }


def lost_of(name: str, document: Any) -> list[str]:
    """What `document` lacks of the one that is recorded as `name`."""
    from .compare import losses
    from .shape import shape

    part = {"documents": {name: load()["documents"][name]}}
    return losses(part, {"documents": {name: shape(document)}})


def have_tasks() -> bool:
    """Whether the extra `eval` is installed, without which some documents cannot be made."""
    return importlib.util.find_spec("lm_eval") is not None
