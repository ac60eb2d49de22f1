"""Command lines run in this process, and the keys of the documents they print."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import Any
from unittest.mock import patch

from zen_mlx.cli.main import main

from .shape import Shape

DATA_KEYS = {
    "zen data preview": {"files[].formats", "scrubbed"},
    "zen eval": {"results[].layer_error"},
    "zen eval --tasks": {"results[].tasks", "results[].tasks.*"},
}
"""Objects of a document whose keys are data."""

MACHINE = {
    "zen doctor": {
        "advice[]": ("string",),
        "problems[]": ("string",),
        "backend.kernels[].failed": ("bool",),
        "backend.kernels[].instead_of": ("null", "string"),
        "backend.kernels[].last_row": ("null", "number"),
        "backend.kernels[].error": ("null", "number"),
        "backend.kernels[].reason": ("null", "string"),
        "base.path": ("null", "string"),
        "blas.path": ("null", "string"),
        "blas.version": ("null", "string"),
        "hub.reason": ("null", "string"),
        "memory.free_bytes": ("null", "number"),
        "store.damaged[]": ("string",),
    },
    "zen bench kernels": {
        "tables.kernels.launches[].over_*": ("null", "number"),
        "tables.kernels.launches[].mlx_1bit_speedup": ("null", "number"),
        "tables.kernels.launches[].triton_speedup": ("null", "number"),
    },
}
"""What another machine may show: these types are taken as seen."""


class Commands:
    """Runs command lines in this process and gathers their documents."""

    def __init__(self) -> None:
        self.shapes: dict[str, Shape] = {}

    def add(self, name: str, document: Any) -> Any:
        """Take note of a document of the command `name`."""
        self.shapes.setdefault(name, Shape(DATA_KEYS.get(name, ()))).add(document)
        return document

    def zen(self, words: str, *args: object, under: str = "", code: int = 0) -> Any:
        """The document of `zen WORDS ARGS --json`, taken note of as that of `under` (by default of WORDS)."""
        found, text = run(*words.split(), *args, "--json")
        assert found == code, f"zen {words} ended with {found}: {text}"
        return self.add(under or ("error" if code else f"zen {words}"), json.loads(text))

    def types(self) -> dict[str, Any]:
        """Name -> types, with what other machines may show."""
        for name, paths in MACHINE.items():
            for path, types in paths.items():
                self.shapes[name].allow(path, types)
        return {name: each.types() for name, each in sorted(self.shapes.items())}


def run(*args: object, stdin: Any = None) -> tuple[int, str]:
    """(exit code, stdout) of one command line."""
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(io.StringIO()),
        patch.object(sys, "stdin", stdin or io.TextIOWrapper(io.BytesIO())),
        patch("warnings.showwarning"),
    ):
        code = main([str(each) for each in args])
    return code, out.getvalue()
