"""Planted secrets of every kind are gone and counted; numbers and words that only look like one stay."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from export_files import jsonl
from scrubbing import changed, leaks
from scrubbing.negatives import harmless
from scrubbing.positives import planted
from scrubbing.prose import lines

from zen_mlx.data.examples import ImportOptions, import_examples, load_examples
from zen_mlx.data.importers.scrub import scrub

# Spelled in two halves, so that no scanner takes this file for a leak.
KEYS = [
    "AKIA" + "IOSFODNN7EXAMPLE",
    "sk-" + "abcdefghijklmnopqrstuvwxyz123456",
    "sk-" + "proj-AbCd_efGh-1234567890abcdefghijkl",
    "sk-" + "ant-api03-AbCdEfGhIjKlMnOpQrStUvWxYz_-0123456789",
    "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_" + "11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ0123",
    "glpat" + "-abcdefghij0123456789",
    "xoxb" + "-123456789012-1234567890123-abcdefGHIJKLmnopqrstuvwx",
    "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc",
    "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "npm_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "SG." + "abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
    "123456789:" + "AAabcdefghijklmnopqrstuvwxyz012345678",
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "https://hooks.slack.com/" + "services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
    "Authorization: Bearer " + "c2VjcmV0LXRva2VuLXZhbHVl",
    "api_key = " + "9f8a7b6c5d4e3f2a1b0c",
    'client_secret: "' + 'q1w2e3r4t5y6"',
]
PASSWORDS = [
    "password: hunter2",
    "my passwort ist geheim123",
    "PIN is 4711",
    "pwd=letmein",
    "https://kim:s3cret@x.org/a",
]
CARDS = ["4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005", "6011111111111117", "4222222222222"]
ACCOUNTS = [
    "DE89 3704 0044 0532 0130 00",
    "GB82WEST12345698765432",
    "fr14 2004 1010 0505 0001 3m02 606",
    "account number: 12345678",
    "Konto 1234567890",
    "123-45-6789",
]
PHONES = [
    "+1 415 555 0132",
    "(415) 555-0132",
    "415-555-0132",
    "+49 (0)171 2345678",
    "0171 2345678",
    "020 7946 0958",
    "06 12 34 56 78",
    "+919876543210",
    "0044 20 7946 0958",
    "call me on 5550132",
]
EMAILS = ["kim@example.org", "first.last+tag@mail.example.co.uk", "jörg@example.de"]
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA04up8hoqzS1\nAbCdEf/+0123456789==\n-----END RSA PRIVATE KEY-----"
)

HARMLESS = [
    "ISBN 0-262-01153-0 of 1961-1971, pages 100-200",
    "meet at 10:30 on 2023-11-14, 31.12.2023 or 12/31/2023 23:59",
    "it costs 1,234,567.89 or 12.345.678 euros, 1 000 000 in total",
    "version 1.2.3.4, 192.168.10.254, build 20231114",
    "sha 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "order 1234567812345678, ticket 4111111111111112",
    "the password is important and the secret is out",
    "a token: the unit of text; key: see below",
    "uuid 123e4567-e89b-12d3-a456-426614174000",
    "the account was closed in 2023; 3.14159265358979",
    "timestamp 1700000000, in ms 1700000000000",
    "skeleton sk-learn ghost_town hf_hub",
    "GB82 is a road, DE89 too",
]


@pytest.mark.parametrize(
    ("kind", "samples"),
    [
        ("key or token", KEYS),
        ("password", PASSWORDS),
        ("card number", CARDS),
        ("account number", ACCOUNTS),
        ("phone number", PHONES),
        ("e-mail address", EMAILS),
        ("private key", [PEM, PEM[:70], PEM.replace("RSA ", "")]),
    ],
)
def test_every_planted_secret_is_gone(kind: str, samples: list[str]) -> None:
    for sample in samples:
        for text in (sample, f"Hi, here: {sample}\nbye", f"({sample}) and {sample}."):
            counts: Counter[str] = Counter()
            clean = scrub(text, counts, keep_contacts=False)
            assert counts == {kind: text.count(sample)}, (text, clean)
            assert sample not in clean, clean
            assert clean.startswith(text[: text.index(sample)]), clean
            again: Counter[str] = Counter()
            assert scrub(clean, again, keep_contacts=False) == clean
            assert not again


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    counts: Counter[str] = Counter()
    assert scrub(text, counts, keep_contacts=False) == text
    assert not counts


def test_contacts_stay_when_they_are_wanted() -> None:
    counts: Counter[str] = Counter()
    for text in (*PHONES, *EMAILS):
        assert scrub(text, counts, keep_contacts=True) == text
    assert scrub(KEYS[0], counts, keep_contacts=True) == "[key or token]"


def test_the_published_examples_have_only_their_addresses_scrubbed() -> None:
    """1,868 rows of a dictionary: nothing but three e-mail addresses looks like a secret."""
    for name, expected in (("cynic", {}), ("hacker", {"e-mail address": 3})):
        path = Path(__file__).parents[4] / "examples" / f"{name}.train.jsonl"
        examples, report = import_examples(path)
        assert report.scrubbed == expected
        assert len(examples) + report.duplicates.count == len(load_examples(path))


def test_nothing_planted_leaves_the_import(tmp_path: Path) -> None:
    planted = [*KEYS, *PASSWORDS, *CARDS, *ACCOUNTS, *PHONES, *EMAILS, PEM]
    rows = [
        {"messages": [{"role": "user", "content": s}, {"role": "assistant", "content": f"it was {s}"}]} for s in planted
    ]
    call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": json.dumps({"card": CARDS[0]})}}
    tool = {
        "messages": [{"role": "user", "content": "pay"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    }
    path = jsonl(tmp_path / "rows.jsonl", *rows, tool, {"text": " ".join(CARDS)}, {"messages": EMAILS[0]}, EMAILS[0])
    examples, report = import_examples(path)
    everything = repr(examples) + json.dumps(report.to_dict())
    for secret in [*KEYS[:15], *CARDS, *ACCOUNTS, *PHONES[:9], *EMAILS, "hunter2", "geheim123", "s3cret", "MIIEpAIB"]:
        assert secret not in everything, secret
    assert report.scrubbed["card number"] == 2 * len(CARDS) + 1 + len(CARDS)
    kept, _ = import_examples(path, ImportOptions.of(keep_contacts=True))
    assert EMAILS[0] in repr(kept)


SHAPES = [
    ("DB_{}=" + "mysecretpass", "PASSWORD", "mysecretpass"),
    ('MYSQL_ROOT_{}: "' + 'x9"', "PASSWORD", '"x9"'),
    ("ADMIN_{}=" + "letmein", "PWD", "letmein"),
    ('smtp{}: "' + 'swordfish"', "Password", "swordfish"),
]
TOLD = [
    "wget --password " + "swordfish http://x",
    "Server=db;Password={" + "sword;fish};Encrypt=True",
    "jdbc:oracle:thin:kim/" + "swordfish@db:1521/x",
    "Mein Passwort lautet: " + "swordfish",
    "パスワードは「" + "swordfish」です",
    'requests.get(u, auth=("kim", "' + 'swordfish"))',
    "<password><![CDATA[" + "swordfish]]></password>",
    "openssl enc -k " + "swordfish -in a",
    "Zugangsdaten: kim / " + "swordfish",
    "p/w: " + "swordfish",
]
KEPT = [
    "Wrong password: try again",
    "Reset your password: https://example.org/reset",
    "http://localhost:8080/@user",
    "Access: read/write",
    "12:30:45:67:89",
    '"auth": "required"',
    "the bearer internationalization-committee said",
    "if (password !== confirmPassword) {",
    "password: z.string().min(8)",
    "primary key: id",
    "600 000 000 users",
    "601 500 000 zł",
    "password = get_password()",
    "Boarding pass: attached",
    "token: 4096x4096",
]


def by_kind(items: list[Any], kind: Callable[[Any], str]) -> dict[str, list[Any]]:
    kinds: dict[str, list[Any]] = {}
    for item in items:
        kinds.setdefault(kind(item), []).append(item)
    return kinds


@pytest.mark.parametrize(("form", "name", "secret"), SHAPES)
def test_a_name_inside_a_name_gives_its_value_away(form: str, name: str, secret: str) -> None:
    clean = scrub(form.format(name), Counter(), keep_contacts=True)
    assert secret not in clean
    assert clean.startswith(form.format(name)[:6])


@pytest.mark.parametrize("text", TOLD)
def test_a_plain_word_is_a_password_by_its_place(text: str) -> None:
    assert "fish" not in scrub(text, Counter(), keep_contacts=True)


@pytest.mark.parametrize("text", KEPT)
def test_amounts_code_and_plain_words_are_kept(text: str) -> None:
    assert scrub(text, Counter(), keep_contacts=False) == text


def test_a_phone_number_is_one_also_in_groups_of_three() -> None:
    for text in ("Zadzwoń: 601 234 567", "tel 601 500 000", "601 234 567 po szóstej"):
        assert "phone number" in scrub(text, Counter(), keep_contacts=False), text


def test_at_most_one_in_a_hundred_planted_secrets_is_left() -> None:
    for kind, texts in by_kind(planted(), lambda each: each.kind).items():
        left = [each.text for each in texts if leaks(each)]
        assert len(left) <= len(texts) / 100, (kind, left)
    assert len(planted()) >= 300


def test_at_most_two_in_a_hundred_harmless_texts_are_changed() -> None:
    for kind, texts in by_kind(harmless(), lambda each: each[0]).items():
        wrong = [text for _, text in texts if changed(text)]
        assert len(wrong) <= len(texts) / 50, (kind, wrong)
    assert len(harmless()) >= 300


def test_at_most_two_of_two_thousand_lines_of_prose_are_changed() -> None:
    wrong = [line for line in lines(2000) if changed(line)]
    assert len(wrong) <= 2, wrong


def test_what_is_scrubbed_once_is_scrubbed() -> None:
    for each in planted():
        clean = scrub(each.text, Counter(), keep_contacts=False)
        again: Counter[str] = Counter()
        assert scrub(clean, again, keep_contacts=False) == clean, (each.text, clean)
        assert not again, clean


HOSTILE = [
    "a",
    "1",
    "1 ",
    "a@",
    "a.",
    "-----BEGIN PRIVATE KEY-----",
    "password",
    "eyJ",
    "DE89 ",
    "://a:",
    "://a@",
    "://:",
    "+1",
    "(1",
    "key=",
    "secret_key_",
    "password(",
    "password: ",
    "pass=;a",
    "mysql -",
    "sshpass ",
    "curl -u ",
    "htpasswd ",
    "htpasswd -b a ",
    "-pass pass:",
    "net use \\\\a ",
    "a:1:a:a:",
    "WIFI:;",
    "otpauth://totp/a?a&",
    "machine a login a ",
    "token ",
    "x-api-key: ",
    "密码是",
    "пароль ",
    '\\"password\\":',
    "abcd ",
    "seed phrase: abc ",
    "1 000 ",
    "A",
    "$6$a",
    "<password ",
    "{{",
    "%",
    '"',
    "\\",
    "password a b ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_is_scrubbed_in_no_time(unit: str) -> None:
    """A quarter of a million letters in four seconds of a busy machine; what is quadratic takes minutes."""
    began = time.process_time()
    scrub(unit * (250_000 // len(unit)), Counter(), keep_contacts=False)
    assert time.process_time() - began < 4, unit
