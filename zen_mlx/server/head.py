"""The head of a request, as the guard reads it."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope


class Head:
    """Method, path and headers of an ASGI scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self._headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self._headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return self._headers.get(name, [])

    def get(self, name: str, default: str = "") -> str:
        """The values of a header as one."""
        return ", ".join(self.all(name)) or default

    @property
    def presented(self) -> list[bytes]:
        """The API keys that the caller shows."""
        bearers = [value.partition(" ") for value in self.all("authorization")]
        texts = [text.strip() for scheme, _, text in bearers if scheme.lower() == "bearer"] + self.all("x-api-key")
        return [text.encode("latin-1") for text in texts if text]

    @property
    def content_length(self) -> int | None:
        """Bytes of the body, None where the head does not say."""
        text = self.get("content-length")
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return bool(self.content_length) or bool(self.all("transfer-encoding"))

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks what a page of another origin may send."""
        return self.method == "OPTIONS" and bool(self.all("access-control-request-method"))
