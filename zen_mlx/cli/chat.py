"""zen chat: a conversation on a terminal or through a pipe."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import Sampling
from . import _model, _view
from ._options import Model, OneProfile, option

if TYPE_CHECKING:
    from ..engine.chat import ChatSession


def chat(
    model: Model = None,
    profile: OneProfile = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message of the conversation.")] = None,
    max_tokens: Annotated[int, option(Sampling, "max_tokens")] = Sampling.max_tokens,
    temp: Annotated[float, option(Sampling, "temperature")] = Sampling.temperature,
    top_p: Annotated[float, option(Sampling, "top_p")] = Sampling.top_p,
    seed: Annotated[int | None, option(Sampling, "seed")] = Sampling.seed,
) -> None:
    """Talk to a model, and switch profiles while you do.

    Lines that begin with / and a word are commands: /help lists them. Esc-Enter, or a line that ends in a backslash, goes on
    to the next line. Ctrl-C stops an answer, Ctrl-D leaves. From a pipe, each line is a question, and the answers go to stdout.

    Examples:

    \b
      zen chat
      zen chat -p cynic --temp 0.5
      printf 'Define: love\\n/profile hacker\\nDefine: love\\n' | zen chat -p cynic
    """
    from ..engine.chat import ChatSession
    from ..engine.decoding import has_template, render
    from ._chat_commands import Commands, is_command

    sampling = Sampling(max_tokens, temp, top_p, seed)
    manager = _model.open_manager(model, profile, quiet=False)
    session = ChatSession(manager.model, manager.tokenizer, sampling, system)
    if not has_template(manager.tokenizer):
        render(manager.tokenizer, [])  # says that there is no template
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    commands = Commands(manager, session)
    if interactive:
        _view.notice(
            f"{manager.model_name}" + (f" with {profile}" if profile else "") + ". /help for commands, Ctrl-D leaves."
        )
    for line in _typed(commands) if interactive else _piped():
        if not line.strip():
            continue
        if not is_command(line):
            answer(session, functools.partial(session.ask, line), interactive)
            continue
        if commands.is_retry(line):
            answer(session, session.retry, interactive)
        elif not commands.run(line):
            break
    if interactive:
        _view.notice("")


def answer(session: ChatSession, ask: Callable[[Callable[[], bool]], Iterator[str]], interactive: bool) -> None:
    """Stream one answer to stdout and say on stderr what it took; an error is told and the conversation goes on."""
    from ..errors import ZenError
    from . import _errors

    try:
        with _stoppable(interactive) as stopped:
            for piece in ask(stopped):
                sys.stdout.write(_view.printable(piece) if interactive else piece)
                sys.stdout.flush()
    except ZenError as error:
        _errors.report(error, False)
        return
    _view.say()
    last = session.last
    if last is None:
        return
    parts = [f"{last.generation_tps:.1f} tokens/s", f"{last.completion_tokens} tokens"]
    if last.finish_reason == "interrupted":
        parts.append("stopped")
    elif last.finish_reason == "length":
        parts.append("cut by max_tokens or the context")
    if last.dropped:
        parts.append(f"{last.dropped} oldest exchange(s) left out: the context is full")
    _view.dim("  ".join(parts))


@contextlib.contextmanager
def _stoppable(interactive: bool) -> Iterator[Callable[[], bool]]:
    """On a terminal the first Ctrl-C only asks the answer to stop; a second one interrupts."""
    if not interactive:
        yield lambda: False
        return
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def _piped() -> Iterator[str]:
    """Lines of stdin; one that ends in a backslash goes on in the next."""
    held: list[str] = []
    for raw in sys.stdin.buffer:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.endswith("\\"):
            held.append(line[:-1])
            continue
        yield "\n".join([*held, line])
        held.clear()
    if held:
        yield "\n".join(held)


def _typed(commands: object) -> Iterator[str]:
    """Lines typed at the prompt, with editing, history and completion; ends at Ctrl-D."""
    from ._chat_prompt import make_prompt

    ask = make_prompt(commands)
    while True:
        try:
            yield ask()
        except KeyboardInterrupt:
            _view.dim("Ctrl-D leaves")
        except EOFError:
            return
