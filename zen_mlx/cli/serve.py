"""zen serve: the HTTP server, and the service that runs it."""

from __future__ import annotations

import functools
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import ServeOptions
from ..errors import ZenError
from . import _model, _view
from ._options import Model, option

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from ..server.run import Closes, Start

_setting = functools.partial(option, ServeOptions)
_limit = functools.partial(option, ServeOptions, panel="Limits")
_time = functools.partial(option, ServeOptions, panel="Times")
_service = functools.partial(typer.Option, rich_help_panel="Service", show_default=False)


def serve(
    model: Model = None,
    host: Annotated[str, _setting("host")] = ServeOptions.host,
    port: Annotated[int, _setting("port")] = ServeOptions.port,
    api_key_file: Annotated[str | None, _setting("api_key_file")] = None,
    new_key: Annotated[
        Path | None, typer.Option("--new-key", metavar="FILE", help="Make a key file with one new key, and leave.")
    ] = None,
    allow_host: Annotated[list[str] | None, _setting("allow_host")] = None,
    allow_origin: Annotated[list[str] | None, _setting("allow_origin")] = None,
    ollama: Annotated[bool, _setting("ollama")] = ServeOptions.ollama,
    access_log: Annotated[bool, _setting("access_log")] = ServeOptions.access_log,
    max_profiles: Annotated[int, _limit("max_profiles")] = ServeOptions.max_profiles,
    max_profiles_bytes: Annotated[int | None, _limit("max_profiles_bytes")] = None,
    cache_bytes: Annotated[int, _limit("cache_bytes")] = ServeOptions.cache_bytes,
    max_streams: Annotated[int, _limit("max_streams")] = ServeOptions.max_streams,
    max_queue: Annotated[int, _limit("max_queue")] = ServeOptions.max_queue,
    max_tokens: Annotated[int | None, _limit("max_tokens")] = None,
    max_body_bytes: Annotated[int, _limit("max_body_bytes")] = ServeOptions.max_body_bytes,
    max_upload_bytes: Annotated[int, _limit("max_upload_bytes")] = ServeOptions.max_upload_bytes,
    max_connections: Annotated[int, _limit("max_connections")] = ServeOptions.max_connections,
    max_connections_per_peer: Annotated[
        int, _limit("max_connections_per_peer")
    ] = ServeOptions.max_connections_per_peer,
    header_timeout: Annotated[float, _time("header_timeout_s")] = ServeOptions.header_timeout_s,
    body_timeout: Annotated[float, _time("body_timeout_s")] = ServeOptions.body_timeout_s,
    idle_timeout: Annotated[float, _time("idle_timeout_s")] = ServeOptions.idle_timeout_s,
    stall_timeout: Annotated[float, _time("stall_timeout_s")] = ServeOptions.stall_timeout_s,
    request_timeout: Annotated[float, _time("request_timeout_s")] = ServeOptions.request_timeout_s,
    drain: Annotated[float, _time("drain_s")] = ServeOptions.drain_s,
    keep_alive: Annotated[float, _time("keep_alive_s")] = ServeOptions.keep_alive_s,
    install: Annotated[
        bool, _service("--install", help="Start the server with these options now and at every login, and leave.")
    ] = False,
    uninstall: Annotated[bool, _service("--uninstall", help="Stop and remove that service, and leave.")] = False,
    print_only: Annotated[
        bool, _service("--print", help="With --install or --uninstall: show what would be done, and do nothing.")
    ] = False,
) -> None:
    """Serve a base and its profiles to local apps over HTTP, in OpenAI's and Anthropic's dialects.

    The URL goes to stdout once the server listens, the log to stderr. A profile is chosen by the model's name:
    base@profile. Only this machine is let in, unless --host says otherwise, which needs a key. Ctrl-C or SIGTERM let
    running answers end (exit code 130 or 0); a second one ends at once.

    Examples:

    \b
      zen serve
      zen serve --new-key ~/zen-keys
      zen serve --host 0.0.0.0 --api-key-file ~/zen-keys --allow-host my-server.lan
      zen serve -m zen-nano --install --print
    """
    options = ServeOptions(
        host=host,
        port=port,
        api_key_file=api_key_file,
        allow_host=tuple(allow_host or ()),
        allow_origin=tuple(allow_origin or ()),
        max_profiles=max_profiles,
        max_profiles_bytes=max_profiles_bytes,
        cache_bytes=cache_bytes,
        max_streams=max_streams,
        max_queue=max_queue,
        max_tokens=max_tokens,
        max_body_bytes=max_body_bytes,
        max_upload_bytes=max_upload_bytes,
        max_connections=max_connections,
        max_connections_per_peer=max_connections_per_peer,
        header_timeout_s=header_timeout,
        body_timeout_s=body_timeout,
        idle_timeout_s=idle_timeout,
        stall_timeout_s=stall_timeout,
        request_timeout_s=request_timeout,
        drain_s=drain,
        keep_alive_s=keep_alive,
        ollama=ollama,
        access_log=access_log,
    )
    if new_key is not None:
        _make_key(new_key)
    elif install or uninstall or print_only:
        _change_service(options, model, install, uninstall, print_only)
    else:
        _serve(options, model)


def _serve(options: ServeOptions, model: str | None) -> None:
    from ..server.extra import require_extra

    require_extra()
    from ..server import run

    run.leave(run.serve(options, _start(options, model), on_ready=_ready, on_log=_view.notice))


def _start(options: ServeOptions, model: str | None) -> Start:
    """Load the base, begin to decode, and make the app."""

    def start() -> tuple[ASGIApp, Closes]:
        from ..server.app import create_app

        manager = _model.open_manager(model, None, quiet=False)
        backend = manager.backend(
            streams=options.max_streams,
            queue=options.max_queue,
            max_profiles=options.max_profiles,
            max_profiles_bytes=options.max_profiles_bytes,
            cache_bytes=options.cache_bytes,
        )
        count = len(backend.profiles())
        _view.notice(f"{manager.model_name} with {count} profile{'' if count == 1 else 's'}; Ctrl-C ends the server")
        return create_app(backend, options, manager), backend

    return start


def _ready(url: str) -> None:
    _view.say(url)


def _make_key(file: Path) -> None:
    from ..server.keys import create_keys

    path = create_keys(file)
    _view.say(str(path))
    _view.notice(f"the key is in that file; zen serve --api-key-file {shlex.quote(str(path))} asks for it")


def _change_service(options: ServeOptions, model: str | None, install: bool, uninstall: bool, print_only: bool) -> None:
    from ..server import service as services

    if install == uninstall:
        raise typer.BadParameter("give one of --install and --uninstall")
    service = services.service_of(services.resolved(options), model)
    commands = service.start if install else service.stop
    if print_only:
        _view.say(service.content.decode().rstrip() if install else str(service.path))
        _view.notice("\n".join([str(service.path), *commands]))
    elif install:
        services.install(service)
        _run(commands)
        _view.say(str(service.path))
    else:
        services.check_installed(service)
        try:
            _run(commands)
        finally:
            services.uninstall(service)
        _view.say(str(service.path))


def _run(commands: tuple[str, ...]) -> None:
    """Run the service manager's commands; an error names those that are left to do."""
    for done, command in enumerate(commands):
        try:
            ended = subprocess.run(shlex.split(command), capture_output=True, text=True)
            why = ended.stderr.strip() or "failed" if ended.returncode else None
        except OSError as error:
            why = error.strerror
        if why is not None:
            raise ZenError(f"{command}: {why}", hint=f"left to do: {'; '.join(commands[done:])}")
