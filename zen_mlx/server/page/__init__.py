"""The chat page at `/`: one HTML file, and the headers that let it run nothing but its own script and style."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_INLINE = re.compile(rb"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL)
# The icon is the only image: a data: URL in the page. No script may turn a text into markup.
_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@cache
def read_page() -> tuple[bytes, Mapping[str, str]]:
    """The page, UTF-8 bytes, and its headers; both stay the same as long as the process runs."""
    body = files(__package__).joinpath("index.html").read_bytes().replace(b"\r\n", b"\n")
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _POLICY.format(script=_hashes(body, b"script"), style=_hashes(body, b"style")),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return body, MappingProxyType(headers)


def mount_page(app: Starlette) -> None:
    """Adds GET and HEAD `/` to a Starlette or FastAPI app; the page itself needs no key and has no user's data."""
    from starlette.responses import Response

    body, headers = read_page()

    async def page(_: Request) -> Response:
        return Response(body, headers=dict(headers))

    app.add_route("/", page, include_in_schema=False)


def _hashes(body: bytes, element: bytes) -> str:
    """The CSP sources that allow the inline texts of `element` and no other."""
    texts = [text for name, text in _INLINE.findall(body) if name == element]
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in texts)
