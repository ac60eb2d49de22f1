"""HTTP by hand, over sockets that can be closed at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 180.0


@dataclass
class Connection:
    """One connection with one request. status 0: nothing has come yet."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    async def begin(self) -> None:
        """Read the head of the answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split()[1])
        pairs = (line.partition(":") for line in head[1:] if line)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}

    async def whole(self) -> Any:
        """The JSON document of an answer."""
        return json.loads(await self.reader.readexactly(int(self.headers["content-length"])))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream, as they come."""
        while size := int(await self.reader.readline(), 16):
            chunk = await self.reader.readexactly(size + 2)
            for event in events_in(chunk):
                yield event

    def leave(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()


def events_in(text: bytes) -> list[dict[str, Any]]:
    """The JSON of every whole event."""
    lines = text.decode("utf-8", "replace").splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {") and line.endswith("}")]


async def leave_after(port: int, data: bytes, enough: Callable[[list[dict[str, Any]]], bool]) -> bytes:
    """Send `data`, leave when there is `enough`, and return every byte that had arrived by then."""
    loop, text = asyncio.get_running_loop(), b""
    with socket.socket() as asked:
        asked.setblocking(False)
        await loop.sock_connect(asked, ("127.0.0.1", port))
        await loop.sock_sendall(asked, data)
        while not enough(events_in(text)) and (piece := await loop.sock_recv(asked, 1 << 16)):
            text += piece
        with contextlib.suppress(BlockingIOError):
            while piece := asked.recv(1 << 16):
                text += piece
    return text


@contextlib.asynccontextmanager
async def connected(port: int, data: bytes) -> AsyncIterator[Connection]:
    """A connection on which `data` was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def post(path: str, body: Any) -> bytes:
    """A whole request. body: bytes are sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def get(port: int, path: str) -> str:
    """The text at `path`."""
    async with connected(
        port, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()
    ) as asked:
        await asked.begin()
        return (await asked.reader.read()).decode()
