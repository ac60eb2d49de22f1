"""`zen`: puts the commands together; the process ends here and nowhere else."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from . import (
    _errors,
    bench,
    chat,
    compress,
    data,
    demo,
    doctor,
    evaluate,
    generate,
    inspect,
    models,
    profile,
    serve,
    train,
)
from ._options import Command

_HELP = """Private, personal language models on your own machine: one frozen base, many small profiles.

Start with:

\b
  zen demo                          everything once, in a few minutes
  zen train notes/ --profile me     learn a profile from your own files
  zen chat -p me                    talk to it
"""

app = typer.Typer(
    name="zen",
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"zen_mlx {version('zen-mlx')}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """The options before a command."""


app.callback(help=_HELP)(_root)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("chat", cls=Command)(chat.chat)
app.command("generate", cls=Command)(generate.generate)
app.command("train", cls=Command)(train.train)
app.command("compress", cls=Command)(compress.compress)
app.command("eval", cls=Command)(evaluate.evaluate)
app.command("serve", cls=Command)(serve.serve)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.add_typer(profile.app, name="profile")
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")


def run() -> None:
    """Run the command line of this process and leave it with its exit code."""
    sys.exit(main(sys.argv[1:]))


def main(args: list[str]) -> int:
    """Run one command line and return its exit code; every exception becomes text here."""
    warnings.showwarning = _errors.show_warning
    as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    try:
        command = typer.main.get_command(app)
        if "_ZEN_COMPLETE" in os.environ:
            command.main(args=args, prog_name="zen", complete_var="_ZEN_COMPLETE")
        with command.make_context("zen", args or ["--help"]) as context:
            command.invoke(context)
        sys.stdout.flush()
    except BaseException as error:
        try:
            return _errors.report(error, as_json)
        except BrokenPipeError as broken:
            return _errors.report(broken, as_json)
    return 0
