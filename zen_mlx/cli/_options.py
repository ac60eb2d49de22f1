"""Options that settings and several commands share, their help and errors, and shell completion. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .. import paths
from ..config import settings_of
from ..errors import ConfigError, ZenError

_SPELLED: dict[str, str] = {}  # field of a setting -> its option, for the errors


def option(owner: type, name: str, panel: str | None = None) -> Any:
    """The option of the setting `name` of the dataclass `owner`, with its help and default; `panel`: heading in --help."""
    each = settings_of(owner)[name]
    known, default = each.metadata["setting"], each.default
    spelled = known.option or f"--{name.replace('_', '-')}"
    flags = spelled.split("/")
    _SPELLED[name] = flags[0]
    shown = None if default in (None, ()) else str(default).removesuffix(".0")
    if isinstance(default, bool):
        shown = flags[flags[0].startswith("--no-") == default] if flags[1:] else None
    text = known.help if shown is None else f"{known.help} Default: {shown}."
    metavar = {"int": "N", "float": "X"}.get(str(each.type).partition(" | ")[0])
    return typer.Option(spelled, metavar=metavar, help=text, show_default=False, rich_help_panel=panel)


class Command(TyperCommand):
    """A command whose help has a section for each heading, and whose ConfigErrors name the option that was typed."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, the options, and then those under headings of their own."""
        sections: dict[str, list[Any]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            field = str(error.field)
            flag = _SPELLED.get(field, f"--{field.replace('_', '-')}")
            if any(flag in (*param.opts, *param.secondary_opts) for param in self.params):
                error.option = flag
                if error.message.startswith(f"{field} "):
                    error.message = flag + error.message.removeprefix(field)
            raise


def complete_model(incomplete: str) -> list[str]:
    """Aliases and converted bases that begin with `incomplete`."""
    try:
        return [name for name in model_names() if name.startswith(incomplete)]
    except ZenError:
        return []


def model_names() -> list[str]:
    """Aliases and converted bases; ConfigError where the configuration file's are not good."""
    from ..base import registry

    known = registry.aliases()
    made = [entry.name for entry in _entries(paths.zen_home() / "bases") if not entry.name.startswith(".")]
    return list(dict.fromkeys([*known, *made]))


def complete_profile(incomplete: str) -> list[str]:
    """Profiles that begin with `incomplete`."""
    return [name for name in profile_names() if name.startswith(incomplete)]


def profile_names() -> list[str]:
    """Names of the stored profiles, sorted."""
    files = _entries(paths.zen_home() / "profiles")
    return sorted(file.name.removesuffix(paths.SUFFIX) for file in files if file.name.endswith(paths.SUFFIX))


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Base model: an alias, a hub repository or a folder. Default: the profile's, else smollm2-135m.",
        autocompletion=complete_model,
    ),
]
OneProfile = Annotated[
    str | None,
    typer.Option("--profile", "-p", metavar="NAME", help="Profile to apply.", autocompletion=complete_profile),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Replace = Annotated[bool, typer.Option("--replace", help="Overwrite a profile of that name.")]
ProfileName = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_profile, show_default=False)]
Me = Annotated[
    list[str] | None,
    typer.Option(
        "--me",
        metavar="NAME",
        help="Your name in chats and mails: what you wrote is learned. Repeat it for other names.",
    ),
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="MAP", help="Columns of a table, such as prompt=question,completion=answer."),
]
AsText = Annotated[
    list[Path] | None,
    typer.Option(
        "--as-text",
        metavar="FILE",
        help="Learn all of this file as a text, also when it looks like a chat. May be repeated.",
    ),
]
KeepContacts = Annotated[
    bool, typer.Option("--keep-contacts", help="Leave e-mail addresses and phone numbers in the data.")
]
