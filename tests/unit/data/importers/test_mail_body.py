"""Bodies of mails: which part counts, character sets, soft line breaks."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from zen_mlx.data.importers.mail_body import body_text, unflowed


def text_of(content_type: str, data: bytes) -> str | None:
    message = message_from_bytes(
        f"Content-Type: {content_type}\nContent-Transfer-Encoding: 8bit\n\n".encode() + data, policy=policy.default
    )
    assert isinstance(message, EmailMessage)
    return body_text(message)


@pytest.mark.parametrize(
    ("content_type", "data", "text"),
    [
        ("text/plain; charset=gb2312", "镕基".encode("gbk"), "镕基"),
        ("text/plain; charset=iso-8859-1", b"5 \x80 \x93so\x94", "5 € “so”"),
        ("text/plain", "naïve".encode(), "naïve"),
        ("text/plain", b"na\xefve", "naïve"),
        ("text/plain; charset=us-ascii", b"na\xefve", "naïve"),
        ("text/plain; charset=no-such-set", b"na\xefve", "naïve"),
        ("text/plain", b"\x81\x8d\xff", None),
        ("text/html", '<meta charset="koi8-r"><p>да'.encode("koi8-r"), "да"),
        ("text/plain; charset=utf-8; format=flowed", b"one \ntwo\n\nthree", "one two\n\nthree"),
        ("text/plain; charset=utf-8; format=flowed; delsp=yes", "日本 \n語".encode(), "日本語"),
    ],
)
def test_character_set(content_type: str, data: bytes, text: str | None) -> None:
    assert text_of(content_type, data) == text


def test_html_counts_where_the_plain_part_is_empty() -> None:
    message = EmailMessage(policy=policy.default)
    message.set_content("\n \n")
    message.add_alternative("<p>At noon.</p>", subtype="html")
    assert body_text(message) == "At noon."


def test_unflowed_keeps_quotes_and_signature() -> None:
    assert unflowed(">> a \n>> b\n> c\nd \ne\n-- \nKim\n >mine") == ">> a b\n> c\nd e\n-- \nKim\n >mine"
