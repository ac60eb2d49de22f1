"""Host and Origin: by which name a client called this server, and from which page a browser did."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from ..errors import ConfigError
from .faults import Fault
from .head import Head

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?)(?::[0-9]{1,5})?")
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:[0-9]{1,5})?|[a-z][a-z0-9+.-]*://\[[0-9a-f:.]+\](:[0-9]{1,5})?"
)
_TOKENS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1000}")
_PREFLIGHT_S = 600
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_fault(head: Head, allowed: frozenset[str]) -> Fault | None:
    """A fault unless the request's Host is this machine's own, the address that the connection reached, or allowed."""
    values = head.all("host")
    match = _AUTHORITY.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        return Fault(400, "the Host header is missing, empty or malformed", code="host_not_allowed")
    if not head.path.startswith("/"):
        return Fault(400, "the request must name a path, not a whole address")
    name = match[1].lower().rstrip(".")
    if name == "localhost" or name in allowed or _is_here(address_of(name), head):
        return None
    return Fault(403, "this server is not called that; --allow-host NAME allows a name", code="host_not_allowed")


def address_of(name: str) -> Address | None:
    """The IP address that `name` spells, without brackets or IPv6's form of an IPv4 address."""
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_here(address: Address | None, head: Head) -> bool:
    if address is None:
        return False
    server = head.scope.get("server") or ("",)
    return address.is_loopback or address == address_of(str(server[0]))


class Origins:
    """The pages that may call. allowed: origins such as `https://app.example` or `app://obsidian.md`."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(origin.lower().rstrip("/") for origin in allowed)
        for origin in self._allowed:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    "this is not the origin of a page",
                    field="allow_origin",
                    expected="such as https://app.example or http://localhost:3000",
                    found=origin,
                )

    def fault(self, head: Head) -> Fault | None:
        """A fault for what a browser sends for another page than our own or an allowed one."""
        origins = head.all("origin")
        if not origins:
            return None if _from_here(head) else _elsewhere()
        if len(origins) == 1 and (self._is_own(origins[0], head) or origins[0].lower() in self._allowed):
            return None
        return _elsewhere()

    def headers(self, head: Head) -> list[tuple[bytes, bytes]]:
        """The CORS headers of an answer; none where the page is our own or not allowed."""
        origin = head.get("origin")
        if origin.lower() not in self._allowed:
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"x-request-id, request-id, retry-after"),
            (b"vary", b"origin"),
        ]

    def preflight(self, head: Head) -> list[tuple[bytes, bytes]]:
        """What an allowed page may send, beside `headers`."""
        wanted = head.get("access-control-request-headers")
        names = wanted if _TOKENS.fullmatch(wanted) else "authorization, content-type, x-api-key"
        found = [
            (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", names.encode("latin-1")),
            (b"access-control-max-age", str(_PREFLIGHT_S).encode()),
        ]
        if head.get("access-control-request-private-network") == "true":
            found.append((b"access-control-allow-private-network", b"true"))
        return found

    @staticmethod
    def _is_own(origin: str, head: Head) -> bool:
        return origin.lower() in {f"{scheme}://{head.get('host').lower()}" for scheme in ("http", "https")}


def _from_here(head: Head) -> bool:
    """Whether a request without Origin was not made by another site's page.

    Browsers say in Sec-Fetch-Site where images and scripts are asked for from. Opening our page from a link is fine.
    """
    site = head.get("sec-fetch-site")
    opened = (head.get("sec-fetch-mode"), head.get("sec-fetch-dest")) == ("navigate", "document")
    return site in ("", "same-origin", "none") or (opened and head.method == "GET")


def _elsewhere() -> Fault:
    return Fault(
        403, "pages of other origins may not use this server; --allow-origin allows one", code="origin_not_allowed"
    )
