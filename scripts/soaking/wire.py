"""HTTP by hand, over sockets that can be closed at any byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
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

    async def arrived(self) -> list[dict[str, Any]]:
        """Events that came and were not read yet: what is in the way when the client leaves now."""
        text = b""
        with contextlib.suppress(TimeoutError):
            while piece := await asyncio.wait_for(self.reader.read(1 << 16), 0.001):
                text += piece
        return events_in(text)

    def leave(self) -> None:
        """Close without a word."""
        self.writer.transport.abort()


def events_in(text: bytes) -> list[dict[str, Any]]:
    """The JSON of every whole event."""
    lines = text.decode("utf-8", "replace").splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {") and line.endswith("}")]


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
