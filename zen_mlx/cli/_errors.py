"""An exception becomes text and an exit code here, and nowhere else in the command line.

0 done, 1 failed, 2 bad input or usage, 130 interrupted
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from typing import Any

import typer

from ..errors import ZenError

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130
_USAGE_ERROR = typer.BadParameter.__mro__[1]
_CLICK_ERROR = _USAGE_ERROR.__mro__[1]


def report(error: BaseException, as_json: bool) -> int:
    """Tell the user about `error` and return the exit code; with `as_json` the one document on stdout is the error."""
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError):
        return _reader_left()
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        message = str(error) or "interrupted"
        return _say({"type": "Interrupted", "message": message}, message, None, INTERRUPTED, as_json)
    if isinstance(error, ZenError):
        return _say(error.to_dict(), str(error), error.hint, error.exit_code, as_json)
    if isinstance(error, _CLICK_ERROR):
        return _usage(error, as_json)
    if os.environ.get("ZEN_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return _say(_unexpected(error), f"{place}{error.strerror}", None, FAILED, as_json)
    if isinstance(error, MemoryError):
        return _say(_unexpected(error), "there is not enough memory for this", None, FAILED, as_json)
    first = (str(error).strip().splitlines() or [""])[0]
    text = f"unexpected {type(error).__name__}" + (f": {first}" if first else "")
    return _say(_unexpected(error), text, "set ZEN_DEBUG=1 for the traceback", FAILED, as_json)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Say a warning in one line, without the place in the code that it came from."""
    sys.stderr.write(f"zen: warning: {_plain(str(message))}\n")


def _say(document: dict[str, Any], text: str, hint: str | None, code: int, as_json: bool) -> int:
    if as_json:
        # JSON has no NaN and no infinity: what was found is said as text then.
        spoken = {
            key: str(each) if isinstance(each, float) and not math.isfinite(each) else each
            for key, each in document.items()
        }
        sys.stdout.write(json.dumps({"error": spoken}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    else:
        sys.stderr.write(f"zen: error: {_plain(text)}\n")
        if hint:
            sys.stderr.write(f"  hint: {_plain(hint)}\n")
    return code


def _usage(error: Any, as_json: bool) -> int:
    """A mistyped command. The text of `NoArgsIsHelpError` is the help itself, which typer may have printed already."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and not as_json:
        if str(error.message).strip():
            sys.stderr.write(error.message + "\n")
        return BAD_USAGE
    message = "a command is missing" if type(error).__name__ == "NoArgsIsHelpError" else error.format_message()
    hint = f"{context.command_path} --help" if context is not None else None
    return _say({"type": "UsageError", "message": message}, message, hint, BAD_USAGE, as_json)


def _unexpected(error: BaseException) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": str(error)}


def _reader_left() -> int:
    """The reader of stdout went away (`zen ... | head`): nothing more to say, and nothing may fail at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return FAILED


def _plain(text: str) -> str:
    """Control characters out of a file or a name must not reach the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)
