"""The body of a mail -> text: the plain part or the HTML, its character set, its soft line breaks (RFC 3676)."""

from __future__ import annotations

import re
from email.message import EmailMessage

from .mail_html import html_text
from .rows import is_text

_MOST_TEXT_CHARS = 2**20
# What programs that declare these really write: https://encoding.spec.whatwg.org/#names-and-labels
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso-8859-1": "cp1252",
    "latin-1": "cp1252",
    "latin1": "cp1252",
    "iso8859-1": "cp1252",
}
_UNDECLARED = (None, "", "us-ascii", "ascii", "unknown-8bit", "x-unknown")
_META = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]{1,40})", re.IGNORECASE)


def body_text(message: EmailMessage) -> str | None:
    """The text of the plain part, or of the HTML part where that is empty; None in an unknown character set."""
    text: str | None = ""
    for kind in ("plain", "html"):
        part = message.get_body(preferencelist=(kind,))
        text = "" if part is None else _part_text(part)  # type: ignore[arg-type]
        if text is None or text.strip():
            return text
    return text


def _part_text(part: EmailMessage) -> str | None:
    raw = part.get_payload(decode=True)
    data = raw if isinstance(raw, bytes) else b""
    is_html = part.get_content_type() == "text/html"
    charset = part.get_content_charset()
    if charset in _UNDECLARED and is_html and (found := _META.search(data[:2048])):
        charset = found[1].decode("ascii", "replace").lower()
    text = _decoded(data, charset)
    if text is None:
        return None
    text = text[:_MOST_TEXT_CHARS].replace("\r\n", "\n")
    if is_html:
        text = html_text(text)
    elif str(part.get_param("format", "")).lower() == "flowed":
        text = unflowed(text, str(part.get_param("delsp", "")).lower() == "yes")
    return text if is_text(text) else text.encode("utf-8", "replace").decode()


def _decoded(data: bytes, charset: str | None) -> str | None:
    if charset not in _UNDECLARED:
        try:
            return data.decode(_WIDER.get(str(charset), str(charset)), "replace")
        except (LookupError, ValueError):
            pass  # a name that nobody knows says nothing
    for guess in ("utf-8", "cp1252"):
        try:
            return data.decode(guess)
        except UnicodeDecodeError:
            continue
    return None


def unflowed(text: str, delete_space: bool = False) -> str:
    """Paragraphs as their author typed them: RFC 3676, section 4."""
    done: list[str] = []
    pieces: list[str] = []
    depth = 0
    for line in text.split("\n"):
        level = len(line) - len(line.lstrip(">"))
        words = line[level:].removeprefix(" ")
        if pieces and level != depth:
            done.append(_quoted("".join(pieces), depth))
            pieces = []
        depth = level
        soft = words.endswith(" ") and words != "-- "
        pieces.append(words[:-1] if soft and delete_space else words)
        if not soft:
            done.append(_quoted("".join(pieces), depth))
            pieces = []
    return "\n".join([*done, *([_quoted("".join(pieces), depth)] if pieces else [])])


def _quoted(words: str, depth: int) -> str:
    if depth:
        return ">" * depth + " " + words
    return f" {words}" if words.startswith(">") else words  # stuffed: the author's own `>`
