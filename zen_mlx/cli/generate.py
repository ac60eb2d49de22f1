"""zen generate: one answer on stdout."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..config import Sampling
from . import _model, _view
from ._options import AsJson, Model, OneProfile, option


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT|-", help="The question; - reads it from stdin.")],
    model: Model = None,
    profile: OneProfile = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System message before the prompt.")] = None,
    max_tokens: Annotated[int, option(Sampling, "max_tokens")] = Sampling.max_tokens,
    temp: Annotated[float, option(Sampling, "temperature")] = Sampling.temperature,
    top_p: Annotated[float, option(Sampling, "top_p")] = Sampling.top_p,
    seed: Annotated[int | None, option(Sampling, "seed")] = Sampling.seed,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt and leave.

    The prompt goes through the model's chat template as a user turn; a model without a template continues the plain
    text. The answer streams to stdout.

    Examples:

    \b
      zen generate "Define: love" -p cynic
      zen generate "Define: love" -p cynic --temp 0 --json
      cat letter.txt | zen generate - --system "Summarize in one sentence."
    """
    from ..engine import decoding as engine

    sampling = Sampling(max_tokens, temp, top_p, seed)
    text = _stdin() if prompt == "-" else prompt
    manager = _model.open_manager(model, profile, as_json)

    def write(piece: str) -> None:
        sys.stdout.write(_view.printable(piece) if sys.stdout.isatty() else piece)
        sys.stdout.flush()

    result = engine.generate(
        manager.model,
        manager.tokenizer,
        text,
        sampling,
        system=system,
        model_name=manager.model_name,
        profile=profile,
        on_text=(lambda piece: None) if as_json else write,
    )
    if as_json:
        _view.emit(result.to_dict())
        return
    _view.say()
    if result.finish_reason == "length" and sys.stderr.isatty():
        _view.notice(f"(stopped after {result.completion_tokens} tokens: --max-tokens)")


def _stdin() -> str:
    from ..errors import InputError

    try:
        text = sys.stdin.buffer.read().decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError("stdin is not UTF-8 text", field=f"byte {error.start}") from error
    if not text:
        raise InputError("stdin is empty", field="prompt")
    return text
