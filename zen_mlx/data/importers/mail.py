"""An mbox of e-mail -> threads in which your mails answer the others'.

A mail is its own words: quoted text, the line that introduces it, and the signature go. A mail that begins a thread is an
answer to its subject. Copies in several folders count once.
"""

from __future__ import annotations

import mailbox
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.message import Message as MailMessage
from email.utils import getaddresses, parsedate_to_datetime
from html.parser import HTMLParser

from ...errors import DataError
from ..example import Example
from .conversations import Message, conversations
from .entries import Entry
from .rows import is_text
from .tally import Tally

MAGIC = b"From "
_MOST_MAIL_BYTES = 64 * 2**20
_MOST_TEXT_CHARS = 2**20
_IDENTITY = re.compile(r"<[^<>\s]{1,998}>")
_REPLY_MARK = re.compile(r"(?i)^(?:(?:re|aw|sv|antw|fw|fwd|wg|tr|rv|vs|odp)(?:\[\d+\])?\s*:\s*)+")
_SEPARATOR = re.compile(r"\s*(?:-{3,}\s*\S.{0,60}?-{3,}|_{20,})\s*")  # ----- Original Message -----
_FIELD = re.compile(
    r"\s*\*?(?:From|Von|De|Da|Van|Från|Fra|Od|Lähettäjä|Sent|Gesendet|Envoyé|Enviado)\s?:\*?\s.*", re.IGNORECASE
)
_ANY_FIELD = re.compile(r"\s*\*?[^\s:][^:\n]{0,20}\s?:\*?\s.*")


@dataclass
class _Mail:
    identity: str
    parents: list[str]
    sender: str
    address: str
    at: float | None
    subject: str
    text: str
    source: str


def read_mbox(entry: Entry, tally: Tally) -> Iterator[tuple[str, Example]]:
    """Keep the mails of one mbox for `threads`: an answer may lie in another file than its question."""
    if entry.path is None:
        raise DataError("an mbox cannot be read inside an archive", path=entry.label, hint="unpack it first")
    known = len(tally.mails)
    tally.mails += _mails(entry, tally)
    if len(tally.mails) == known:
        raise DataError("the mailbox has no mail that can be read", path=entry.label)
    yield from ()


def threads(tally: Tally) -> Iterator[Example]:
    """The threads of all mails that were read."""
    found: dict[str, list[_Mail]] = {}
    root_of: dict[str, str] = {}
    seen: set[str] = set()
    mails: list[_Mail] = sorted(tally.mails, key=lambda mail: mail.at or 0.0)
    for mail in mails:
        if mail.identity in seen:
            tally.skip("a copy of the same mail", mail.source)
            continue
        seen.add(mail.identity)
        root = next((root_of[each] for each in mail.parents if each in root_of), (mail.parents or [mail.identity])[0])
        for each in (mail.identity, *mail.parents):
            root_of.setdefault(each, root)
        found.setdefault(root_of[mail.identity], []).append(mail)
    for root, thread in found.items():
        for example in conversations(_spoken(thread), f"mail:{root}", tally, pause_s=float("inf")):
            tally.read(example.source.rpartition(":")[0], "mbox")
            yield example


def _spoken(mails: list[_Mail]) -> Iterator[Message]:
    first = mails[0]
    if first.subject:
        # The subject is nobody's, so it can be the question that the person's own first mail answers.
        yield Message("", f"Subject: {first.subject}", first.at, first.source, mine=False)
    for mail in mails:
        names = (mail.address,) if mail.address else ()
        yield Message(mail.sender, mail.text, mail.at, mail.source, None, names)


def _mails(entry: Entry, tally: Tally) -> Iterator[_Mail]:
    box = mailbox.mbox(str(entry.path), create=False)
    try:
        for number, key in enumerate(box.iterkeys(), start=1):
            source = f"{entry.label}:mail {number}"
            with box.get_file(key) as handle:
                content = handle.read(_MOST_MAIL_BYTES + 1)
            if len(content) > _MOST_MAIL_BYTES:
                tally.refuse(DataError("a mail is too large", path=source, expected=f"{_MOST_MAIL_BYTES} bytes"))
                continue
            try:
                mail = _parse(content, source)
            except (ValueError, LookupError, TypeError, AttributeError, IndexError, RecursionError):
                # The parser of the standard library raises all of these for headers and parts that are broken.
                mail = None
            if mail is None:
                tally.refuse(DataError("a mail cannot be read", path=source))
            elif not mail.sender:
                tally.skip("a mail without sender", source)
            elif not mail.text:
                tally.skip("a mail with no text of its own", source)
            else:
                yield mail
    finally:
        box.close()


def _parse(content: bytes, source: str) -> _Mail:
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    name, address = _sender(message)
    parents = _IDENTITY.findall(f"{_header(message, 'References')} {_header(message, 'In-Reply-To')}")
    identity = _IDENTITY.findall(_header(message, "Message-ID"))
    subject = _REPLY_MARK.sub("", " ".join(_header(message, "Subject").split()))
    text = own_words(_body(message))
    return _Mail(
        identity[0] if identity else source, parents, name or address, address, _date(message), subject, text, source
    )


def _header(message: MailMessage, name: str) -> str:
    value = str(message.get(name, ""))
    return value if is_text(value) else value.encode("utf-8", "replace").decode()


def _sender(message: MailMessage) -> tuple[str, str]:
    found = getaddresses([_header(message, "From")[:2000]])
    return (found[0][0].strip(), found[0][1].strip().lower()) if found else ("", "")


def _date(message: MailMessage) -> float | None:
    try:
        return parsedate_to_datetime(_header(message, "Date")).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _body(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    raw = part.get_payload(decode=True)
    data = raw if isinstance(raw, bytes) else b""
    try:
        text = data.decode(part.get_content_charset("utf-8"), "replace")
    except (LookupError, ValueError):
        text = data.decode("utf-8", "replace")
    text = text[:_MOST_TEXT_CHARS].replace("\r\n", "\n")
    if part.get_content_type() == "text/html":
        words = _Words()
        words.feed(text)
        words.close()
        text = words.text()
    return text if is_text(text) else text.encode("utf-8", "replace").decode()


def own_words(text: str) -> str:
    """The words of the mail's author: no quoted mails, no line that introduces them, no signature."""
    lines = text.split("\n")
    kept: list[str] = []
    for index, line in enumerate(lines):
        if line.rstrip(" ") == "--" or (_SEPARATOR.fullmatch(line[:200]) and len(line) <= 200):
            break
        if _FIELD.fullmatch(line) and sum(bool(_ANY_FIELD.fullmatch(each)) for each in lines[index : index + 5]) >= 3:
            break
        if line.startswith(">"):
            _drop_introduction(kept)
        else:
            kept.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _drop_introduction(kept: list[str]) -> None:
    """Take `On Monday Anna wrote:`, which may be broken over lines, off the end of `kept`."""
    end = len(kept)
    while end and not kept[end - 1].strip():
        end -= 1
    if not end or not kept[end - 1].rstrip().endswith(":"):
        return
    begin = end - 1
    while (
        begin and end - begin < 3 and kept[begin - 1].strip() and not re.search(r"\d{1,2}[:.]\d{2}|\d{4}", kept[begin])
    ):
        begin -= 1
    if re.search(r"\d{1,2}[:.]\d{2}|\d{4}|@", " ".join(kept[begin:end])):
        del kept[begin:]


class _Words(HTMLParser):
    """The visible text of an HTML mail, without what it quotes."""

    _BLOCKS = frozenset(["p", "div", "br", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "pre"])
    _HIDDEN = frozenset(["script", "style", "head", "title", "blockquote"])

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        quoted = tag == "div" and any(key == "class" and "gmail_quote" in (value or "") for key, value in attrs)
        if tag in self._HIDDEN or (self._hidden and tag == "div") or quoted:
            self._hidden += 1
        if tag in self._BLOCKS and not self._hidden:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and (tag in self._HIDDEN or tag == "div"):
            self._hidden -= 1
        if tag in ("p", "div", "tr", "table") and not self._hidden:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        """The words, one block a line."""
        lines = [line.strip() for line in "".join(self._parts).split("\n")]
        return re.sub(r"\n{2,}", "\n\n", "\n".join(lines)).strip()
