"""The socket to listen on: who may be let in by it, and who has the port if it is taken."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from ..config import ServeOptions
from ..errors import InputError
from .origins import address_of

BACKLOG = 512
_LISTEN = "0A"


def bind(options: ServeOptions) -> socket.socket:
    """A bound socket that does not listen yet, so that connections are still refused.

    InputError where the address is not this machine's own and there is no key file, or where it cannot be had.
    """
    family, address = _resolve(options.host, options.port)
    found = address_of(address[0].partition("%")[0])
    if options.api_key_file is None and not (found is not None and found.is_loopback):
        raise InputError(
            f"--host {options.host} lets other machines in, and no API key is asked for",
            field="host",
            expected="--api-key-file FILE",
            hint="zen serve --new-key FILE makes one; then add --api-key-file FILE",
        )
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # or asyncio leaves Nagle's delay on
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException as error:
        bound.close()
        if isinstance(error, OSError):
            raise _refused(options, error) from error
        raise
    return bound


def listen(bound: socket.socket, options: ServeOptions) -> str:
    """Begin to listen; returns the URL."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        raise _refused(options, error) from error
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _resolve(host: str, port: int) -> tuple[int, tuple[str, int]]:
    """Family and address of `host`, the IPv4 one where it has both."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise InputError(
            f"--host {host} is not an address of this machine",
            field="host",
            expected="such as 127.0.0.1, ::1 or 0.0.0.0",
            found=host,
        )
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address  # type: ignore[return-value]  # of the two families that listen on ports


def _refused(options: ServeOptions, error: OSError) -> InputError:
    port = options.port
    if error.errno == errno.EADDRINUSE:
        owner = owner_of(port)
        return InputError(
            f"port {port} is taken" + (f" by {owner}" if owner else ""),
            field="port",
            hint="choose another one with --port, or any free one with --port 0",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError(f"port {port} is not yours to use", field="port", hint="choose one from 1024 on with --port")
    return InputError(
        f"cannot listen on {options.host}: {error.strerror}",
        field="host",
        hint="--host 127.0.0.1 is this machine alone",
    )


def owner_of(port: int) -> str | None:
    """Name and number of the process that listens on `port`, where /proc shows it."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for folder in Path("/proc").glob("[0-9]*") if sockets else ():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if any(link.readlink().as_posix() in sockets for link in (folder / "fd").iterdir()):
                return f"{(folder / 'comm').read_text().strip()} (process {folder.name})"
    return None


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on `port`."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTEN and int(words[1].rpartition(":")[2], 16) == port:
                    yield words[9]
