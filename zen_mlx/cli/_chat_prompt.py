"""The prompt of `zen chat`: editing, history, completion of commands and profile names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from .. import fsio, paths
from ..errors import ZenError


class _Commands(Completer):
    """Completes `/name` and the first argument of a command."""

    def __init__(self, commands: Any) -> None:
        self._commands = commands

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        command, space, argument = text.partition(" ")
        if not space:
            choices, typed = self._commands.names(), command
        else:
            choices, typed = self._commands.choices(command), argument
        for choice in choices:
            if choice.startswith(typed):
                yield Completion(choice, start_position=-len(typed))


def make_prompt(commands: Any) -> Callable[[], str]:
    """A function that reads one message. Raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D."""
    session: PromptSession[str] = PromptSession(
        history=_history(), completer=_Commands(commands), key_bindings=_keys(), complete_while_typing=False
    )
    return lambda: session.prompt(f"{commands.label()}> ", multiline=False, prompt_continuation="  ")


def _history() -> History:
    """The history file, readable by its user only; kept in memory where it cannot be written."""
    path: Path = paths.history_path()
    try:
        fsio.make_dir(path.parent)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, fsio.PRIVATE_FILE_MODE))
        path.chmod(fsio.PRIVATE_FILE_MODE)
    except (OSError, ZenError):
        return InMemoryHistory()
    return FileHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.text.endswith("\\") and buffer.cursor_position == len(buffer.text):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return keys
