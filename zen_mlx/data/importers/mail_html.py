"""HTML mail -> its visible text without what it quotes.

A quote leaves a line `>`, so that what stands before and after it stays and the line above it is seen as its intro.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape


def html_text(page: str) -> str:
    """The visible text of an HTML mail; a quote is a line `>`."""
    words = _Words()
    for tag, closes, attributes, data in _tokens(page):
        if tag and closes:
            words.end(tag)
        elif tag:
            words.start(tag, attributes)
        else:
            words.data(data)
    return words.text()


_BLOCKS = frozenset(
    ["p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "pre", "blockquote", "hr"]
)
_VOID = frozenset(
    ["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]
)
_NEVER_SHOWN = frozenset(["script", "style", "head", "title", "template"])
_CLOSES_ITSELF = frozenset(["p", "li", "tr", "td", "th", "dd", "dt"])
_INVISIBLE = re.compile(
    r"display:none|visibility:hidden|mso-hide:all|font-size:0(?![.\d])|opacity:0(?![.\d])|max-height:0(?![.\d])"
)
# Classes and ids that mail programs give to a quoted mail.
_QUOTES = ("gmail_attr", "moz-cite-prefix", "moz-forward-container", "yahoo_quoted")
_SIGNATURES = ("gmail_signature", "moz-signature", "applemailsignature", "ms-outlook-mobile-signature")
_REST_IS_QUOTED = ("divrplyfwdmsg", "x_divrplyfwdmsg", "olk_src_body_section")
_OUTLOOK_RULE = re.compile(r"border-top:solid#(?:e1e1e1|b5c4df)1\.0pt")


class _Words:
    """Open elements as a stack; text counts while none of them is quoted or hidden."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self._open_of: dict[str, int] = {}
        self._silent = 0
        self._over = False

    def start(self, tag: str, attributes: str) -> None:
        """An element begins."""
        above = self._open[-1][0] if self._open else ""
        if (above == "p" and tag in _BLOCKS and tag != "br") or (above == tag and tag in _CLOSES_ITSELF):
            self._close_last()
        kind = _kind(tag, attributes.lower())
        self._over = self._over or kind == "rest"
        if kind in ("quote", "rest") and not self._silent:
            self._parts.append("\n>\n")
        if tag in _BLOCKS and not self._silent:
            self._parts.append("\n")
        if tag not in _VOID:
            self._open.append((tag, kind != ""))
            self._open_of[tag] = self._open_of.get(tag, 0) + 1
            self._silent += kind != ""

    def end(self, tag: str) -> None:
        """An element ends, and with it those in it that nothing closed."""
        if not self._open_of.get(tag):
            return
        while self._close_last() != tag:
            pass
        if tag in ("p", "div", "tr", "table", "blockquote") and not self._silent:
            self._parts.append("\n")

    def _close_last(self) -> str:
        tag, silent = self._open.pop()
        self._open_of[tag] -= 1
        self._silent -= silent
        return tag

    def data(self, data: str) -> None:
        """Text between tags."""
        if not self._silent and not self._over:
            self._parts.append(data if self._open_of.get("pre") else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        """The words, one block a line."""
        lines = [line.strip() for line in "".join(self._parts).split("\n")]
        return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip()


def _kind(tag: str, attributes: str) -> str:
    """Why the text of an element does not count: `quote`, `hidden`, `rest` (all that follows is quoted), or not at all."""
    if tag == "blockquote":
        return "quote"
    if tag in _NEVER_SHOWN:
        return "hidden"
    if not attributes:
        return ""
    found = {key: value.strip("\"'") for key, value in _ATTRIBUTE.findall(attributes)}
    names = f"{found.get('class', '')} {found.get('id', '')}".split()
    style = re.sub(r"\s", "", found.get("style", ""))
    if any(name in _REST_IS_QUOTED for name in names) or _OUTLOOK_RULE.search(style):
        return "rest"
    if any(name.startswith(_QUOTES) for name in names):
        return "quote"
    hidden = any(name in _SIGNATURES for name in names) or _INVISIBLE.search(style)
    return "hidden" if hidden or " hidden" in _STRING.sub("", attributes) else ""


def _tokens(page: str) -> Iterator[tuple[str, bool, str, str]]:
    """(tag, whether it closes, its attributes, "") or ("", False, "", text), in one pass: html.parser's time is quadratic."""
    at, last = 0, page.rfind(">")
    while at < len(page):
        begin = page.find("<", at)
        if begin < 0 or begin > last:
            yield "", False, "", unescape(page[at:].split("<!--", 1)[0])
            return
        if begin > at:
            yield "", False, "", unescape(page[at:begin])
        name = _NAME.match(page, begin)
        if page.startswith("<!--", begin):
            end = page.find("-->", begin + 4)
            at = end + 3 if end >= 0 else len(page)
        elif name is None:
            yield "", False, "", "<"
            at = begin + 1
        else:
            whole = _TAG_END.match(page, name.end(), name.end() + _MOST_TAG_CHARS)
            at = whole.end() if whole else page.find(">", name.end()) + 1 or len(page)
            tag = name[2].lower()
            yield tag, bool(name[1]), page[name.end() : min(at - 1, name.end() + _MOST_TAG_CHARS)], ""
            if tag in _RAW and not name[1]:
                closing = _RAW[tag].search(page, at)
                at = closing.start() if closing else len(page)


_MOST_TAG_CHARS = 8192
_NAME = re.compile(r"<([/!?]?)([A-Za-z][^\s/><]{0,40})")
_TAG_END = re.compile(r"""(?:[^>"']|"[^"]{0,4000}"|'[^']{0,4000}')*+>""")
_RAW = {tag: re.compile(rf"</{tag}\b", re.IGNORECASE) for tag in ("script", "style")}
_ATTRIBUTE = re.compile(r"""(?<=\s)(class|id|style)\s{0,9}=\s{0,9}("[^"]{0,4000}"|'[^']{0,4000}'|[^\s"'>]{1,200})""")
_STRING = re.compile(r"\"[^\"]*\"|'[^']*'")
