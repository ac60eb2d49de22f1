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

from ...errors import DataError
from ..example import Example
from .conversations import Message, conversations
from .entries import Entry
from .mail_body import body_text
from .mail_quotes import own_words
from .rows import is_text
from .tally import Tally

MAGIC = b"From "
_MOST_MAIL_BYTES = 64 * 2**20
_ESCAPED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)  # mboxo and mboxrd: a line of a mail that is no separator
_IDENTITY = re.compile(r"<[^<>\s]{1,998}>")
_REPLY_MARK = re.compile(r"(?i)^(?:(?:re|aw|sv|antw|fw|fwd|wg|tr|rv|vs|odp)(?:\[\d+\])?\s*:\s*)+")


@dataclass
class _Mail:
    identity: str
    parents: list[str]
    sender: str
    address: str
    at: float | None
    subject: str
    text: str | None
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
        yield Message(mail.sender, mail.text or "", mail.at, mail.source, None, names)


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
            elif mail.text is None:
                tally.skip("a mail in an unknown character set", source)
            elif not mail.text:
                tally.skip("a mail with no text of its own", source)
            else:
                yield mail
    finally:
        box.close()


def _parse(content: bytes, source: str) -> _Mail:
    message = message_from_bytes(_ESCAPED_FROM.sub(rb"\1", content), policy=policy.default)
    assert isinstance(message, EmailMessage)
    name, address = _sender(message)
    parents = _IDENTITY.findall(f"{_header(message, 'References')} {_header(message, 'In-Reply-To')}")
    identity = _IDENTITY.findall(_header(message, "Message-ID"))
    subject = _REPLY_MARK.sub("", " ".join(_header(message, "Subject").split()))
    body = body_text(message)
    text = None if body is None else own_words(body)
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
