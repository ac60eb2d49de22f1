"""The page at `/` in a real browser: questions, answers, profiles, conversations, the key, and what goes wrong."""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from browser import Tab
from page_server import PageServer, Reply, serve_page
from page_steps import MARKDOWN, ask, choose, settled, type_key, violations, wait_until
from served import listening

from tests.unit.adapter.test_resident_set import profile_of
from zen_mlx import ZenPersonalizationManager
from zen_mlx.config import ServeOptions
from zen_mlx.server.app import create_app
from zen_mlx.server.guard import Guard
from zen_mlx.server.keys import create_keys, read_keys


def test_the_profiles_are_listed_with_size_and_quality(page: Tab) -> None:
    names = page.js("[...document.querySelectorAll('#profiles .name')].map((name) => name.innerText)")
    assert names == ["smollm2-135m", "cynic", "hacker"]
    assert page.js("[...document.querySelectorAll('#profiles li:nth-child(2) small')].map((s) => s.innerText)") == [
        "13.9 MB · 1.03 bits per weight",
        "loss 3.12 → 2.41",
        "keeps 94 % of the fine-tune’s gain",
    ]


def test_an_answer_is_shown_as_markdown(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply(MARKDOWN + "Grüße, 世界 🙂")
    ask(page, "Say <b>something</b>\u2028")
    settled(page, 1)
    assert page.js("document.querySelector('.question').innerText").endswith("Say <b>something</b>\u2028")
    shape = page.js("[...document.querySelector('.answer .body').children].map((one) => one.localName)")
    assert shape == ["h4", "p", "ol", "blockquote", "div", "div", "p"]
    assert page.js("document.querySelector('.body ol > li:nth-child(2) > ul > li').innerText") == "below"
    assert page.js("document.querySelector('.body pre code').textContent") == 'print("<b>")'
    assert [page.text(f".body p {name}") for name in ("strong", "em", "code", "a")] == [
        "bold",
        "italic",
        "code",
        "a page",
    ]
    assert page.js("document.querySelector('.body').lastChild.innerText") == "| no | table |\nGrüße, 世界 🙂"
    cells = "[...document.querySelectorAll('.body tr')].map((row) => [...row.cells].map((cell) => cell.innerHTML))"
    assert page.js(cells) == [["name", "value"], ["<code>a</code>", "<strong>1</strong>"], ["b", ""]]
    assert page.js("getComputedStyle(document.querySelector('.body td:last-child')).textAlign") == "end"
    assert page.js("document.querySelector('.answer h3').innerText") == "smollm2-135m"
    assert page.js("document.title").startswith("Say <b>something</b>")
    (asked,) = server.asked
    assert asked == {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "Say <b>something</b>\u2028"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_conversation_keeps_its_profile_and_its_past(page: Tab, server: PageServer) -> None:
    page.click("#profiles li:nth-child(2) .pick")
    ask(page, "first")
    settled(page, 1)
    page.click("#new")
    page.click("#profiles li:nth-child(3) .pick")
    ask(page, "other")
    settled(page, 1)
    page.click("#conversations li:nth-child(2) .pick")
    assert page.js("document.querySelector('#pick-0').value") == "smollm2-135m@cynic"
    assert page.text(".body") == "I am smollm2-135m@cynic."
    ask(page, "second")
    settled(page, 2)
    assert [body["model"] for body in server.asked] == [f"smollm2-135m@{n}" for n in ("cynic", "hacker", "cynic")]
    assert [message["content"] for message in server.asked[2]["messages"]] == [
        "first",
        "I am smollm2-135m@cynic.",
        "second",
    ]
    assert [message["role"] for message in server.asked[2]["messages"]] == ["user", "assistant", "user"]
    page.click("#conversations li:nth-child(1) .drop")
    page.wait("document.querySelectorAll('#conversations li').length === 1")
    (dialog,) = page.of("Page.javascriptDialogOpening")
    assert "other" in dialog["message"]


def test_two_profiles_answer_side_by_side(page: Tab, server: PageServer) -> None:
    page.click("#compare")
    choose(page, 0, "smollm2-135m@cynic")
    choose(page, 1, "smollm2-135m@hacker")
    ask(page, "who")
    settled(page, 2)
    ask(page, "again")
    settled(page, 4)
    names = page.js("[...document.querySelectorAll('.turn:last-child .answer h3')].map((name) => name.innerText)")
    assert names == ["cynic", "hacker"]
    told = {body["model"]: [message["content"] for message in body["messages"]] for body in server.asked[2:]}
    assert told == {f"smollm2-135m@{n}": ["who", f"I am smollm2-135m@{n}.", "again"] for n in ("cynic", "hacker")}
    left, right = page.js(
        "[...document.querySelectorAll('.turn:last-child .answer')].map((a) => a.getBoundingClientRect().x)"
    )
    assert left + 100 < right


@pytest.mark.parametrize("how", ["button", "Escape", "answer's button"])
def test_stop_ends_the_answer_on_the_server(page: Tab, server: PageServer, how: str) -> None:
    server.answer = lambda body: Reply("The beginning of ", hold=True)
    ask(page, "talk")
    page.wait("document.querySelector('.answer .body')?.innerText === 'The beginning of'")
    assert server.left == []
    if how == "Escape":
        page.press("Escape")
    else:
        page.click("#send" if how == "button" else ".answer footer button:nth-child(2)")
    settled(page, 1, "stopped")
    wait_until(lambda: server.left == ["smollm2-135m"])
    assert page.text(".body") == "The beginning of"
    assert page.text(".facts").startswith("stopped")


def test_the_last_answer_can_be_made_anew(page: Tab, server: PageServer) -> None:
    ask(page, "one")
    settled(page, 1)
    ask(page, "two")
    settled(page, 2)
    server.answer = lambda body: Reply("Better.")
    shown = page.js("[...document.querySelectorAll('.answer footer button:nth-child(2)')].map((one) => !one.hidden)")
    assert shown == [False, True]
    page.click(".turn:last-child .answer footer button:nth-child(2)")
    page.wait("document.querySelector('.turn:last-child .body').innerText === 'Better.'")
    settled(page, 2)
    assert server.asked[2] == server.asked[1]


def test_the_settings_are_sent(page: Tab, server: PageServer) -> None:
    page.click("#settings")
    for field, value in {"temperature": "0.5", "top-p": "1.5", "max-tokens": "99", "system": "Be brief."}.items():
        page.click(f"#{field}")
        page.type(value)
    page.click("#settings-form [type=submit]")
    assert page.text("#settings-error") == "Top p is a number from 0 to 1."
    assert page.js("document.activeElement.id") == "top-p"
    page.js("document.activeElement.select()")
    page.type("0.9")
    page.press("Enter")
    page.wait("!document.querySelector('dialog[open]')")
    ask(page, "hi")
    settled(page, 1)
    (asked,) = server.asked
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"]) == (0.5, 0.9, 99)
    assert asked["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


def test_the_key_is_asked_for_once_and_stays_out_of_addresses(tab: Tab, server: PageServer) -> None:
    server.key = "zen-secret"
    tab.open(server.url, "document.querySelector('#key-dialog[open]')")
    assert "wants its API key" in tab.text("#key-why")
    assert tab.js("[document.activeElement.id, document.activeElement.type]") == ["key", "password"]
    type_key(tab, "two words")
    assert "without spaces" in tab.text("#key-error")
    tab.js("document.activeElement.select()")
    type_key(tab, "zen-wrong")
    tab.wait("document.querySelector('#key-why').innerText.startsWith('The server did not accept this key.')")
    type_key(tab, "zen-secret")
    tab.wait("document.querySelector('#profiles .pick')")
    tab.click("#compare")
    ask(tab, "hi")
    settled(tab, 2)
    tab.open(server.url, "document.querySelector('#profiles .pick')")
    ask(tab, "again")
    settled(tab, 1)
    assert [key for *_, key in server.seen] == [None, "Bearer zen-wrong", *["Bearer zen-secret"] * 5]
    assert {path for _, path, _ in server.seen} == {"/v1/models", "/v1/chat/completions"}
    assert tab.js("Object.entries(sessionStorage)") == [["zen-api-key", "zen-secret"]]
    assert tab.js("[document.cookie, localStorage.length, location.href]") == ["", 0, server.url]
    assert not [asked for asked in tab.of("Network.requestWillBeSent") if "zen-" in asked["request"]["url"]]
    assert "zen-secret" not in tab.js("document.documentElement.outerHTML")
    tab.click("#settings")
    tab.click("#forget")
    assert tab.js("sessionStorage.length") == 0


def test_without_a_key_it_says_so_and_asks_again(tab: Tab, server: PageServer) -> None:
    server.key = "zen-secret"
    tab.open(server.url, "document.querySelector('#key-dialog[open]')")
    tab.press("Escape")
    tab.wait("!document.querySelector('#notice').hidden")
    assert "Without its API key the server does not answer." in tab.text("#notice p")
    tab.click("#notice button")
    type_key(tab, "zen-secret")
    tab.wait("document.querySelector('#profiles .pick') && document.querySelector('#notice').hidden")


def test_one_dialog_for_two_questions_that_need_a_key(page: Tab, server: PageServer) -> None:
    server.key = "zen-secret"
    page.click("#compare")
    ask(page, "hi")
    type_key(page, "zen-secret")
    settled(page, 2)
    page.js("new Promise((done) => setTimeout(done, 50))")
    assert page.count("dialog[open]") == 0


def test_a_busy_server_says_when_to_come_back(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply("full", 429, {"Retry-After": "2"})
    ask(page, "hi")
    settled(page, 1, "failed")
    assert re.search(r"all the work it can take. Try again at \d+:\d\d:\d\d", page.text(".wrong p"))
    assert re.fullmatch(r"Try again in [12] s", page.text(".answer .wrong button"))
    server.answer = lambda body: Reply("Now.")
    page.click(".answer .wrong button")
    assert len(server.asked) == 1
    page.wait("document.querySelector('.answer .wrong button').innerText === 'Try again'")
    page.click(".answer .wrong button")
    settled(page, 1)
    assert page.text(".body") == "Now."
    assert len(server.asked) == 2


def test_the_time_to_come_back_may_be_a_date(page: Tab, server: PageServer) -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    server.answer = lambda body: Reply("full", 429, {"Retry-After": date})
    ask(page, "hi")
    settled(page, 1, "failed")
    assert page.js(f"new Date('{date}').toLocaleTimeString()") in page.text(".answer .wrong p")
    assert re.fullmatch(r"Try again in \d\d s|Try again in 100 s", page.text(".answer .wrong button"))


REFUSED = {
    400: "The server did not take the request (HTTP 400). temperature: too hot",
    403: "The server does not allow this. temperature: too hot",
    404: "The server does not have this model or profile (any more). temperature: too hot",
    413: "This is too long for the server. temperature: too hot",
    429: "The server has all the work it can take. Try again in a moment. temperature: too hot",
    500: "The server failed (HTTP 500). temperature: too hot",
    503: "The server is not ready or is stopping. temperature: too hot",
}


def test_what_the_server_refuses_is_told(page: Tab, server: PageServer) -> None:
    told = {}
    statuses = iter(REFUSED)
    server.answer = lambda body: Reply("temperature: too hot", next(statuses))
    for status in REFUSED:
        page.click("#new")
        ask(page, "hi")
        settled(page, 1, "failed")
        told[status] = page.text(".answer .wrong p")
    assert told == REFUSED


def test_an_answer_that_breaks_off_is_told_and_kept(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply("Half of", cut=True)
    ask(page, "hi")
    settled(page, 1, "failed")
    assert page.text(".answer .body") == "Half of"
    assert page.text(".wrong p") == "The connection broke before the answer was whole. What came so far is above."
    server.answer = lambda body: Reply("")
    page.click(".answer .wrong button")
    settled(page, 1)
    assert page.text(".answer .body") == ""


def test_a_server_that_is_gone_is_told(tab: Tab) -> None:
    with serve_page() as server:
        tab.open(server.url, "document.querySelector('#profiles .pick')")
    ask(tab, "hi")
    settled(tab, 1, "failed")
    assert "The server does not answer. See whether zen serve is still running" in tab.text(".answer .wrong p")
    tab.click("#reload")
    tab.wait("!document.querySelector('#notice').hidden")
    assert tab.count("#profiles .pick") == 3


def test_a_server_that_breaks_the_answer_off_is_told(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply("Half of", error="the server ended this answer")
    ask(page, "hi")
    settled(page, 1, "failed")
    assert page.text(".answer .wrong p") == "The server broke the answer off. the server ended this answer"
    assert page.text(".answer .body") == "Half of"


def test_thoughts_are_no_part_of_the_answer(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply("", thought="Hm.", hold=True)
    ask(page, "hi")
    page.wait("document.querySelector('.answer .facts').innerText === 'Thinking'")
    page.press("Escape")
    settled(page, 1, "stopped")
    server.answer = lambda body: Reply("", thought="Hm.", finish="length")
    page.click(".answer footer button:nth-child(2)")
    settled(page, 1)
    assert page.text(".facts").startswith("no text came · cut at the most tokens allowed")


def test_the_real_server_answers_the_page(tab: Tab, tiny_model: Path, tmp_path: Path) -> None:
    manager = ZenPersonalizationManager(str(tiny_model), home=tmp_path / "home")
    manager.store.save("cynic", profile_of(manager.base.model, "sign", 1))
    options = ServeOptions(api_key_file=str(create_keys(tmp_path / "keys")), max_tokens=12)
    keys = read_keys(tmp_path / "keys")
    try:
        with listening(Guard(create_app(manager.backend(streams=2), options), options, keys)) as url:
            tab.open(f"{url}/", "document.querySelector('#key-dialog[open]')")
            type_key(tab, (tmp_path / "keys").read_text().split()[-1])
            tab.wait("document.querySelectorAll('#profiles .pick').length === 2")
            tab.click("#compare")
            tab.click("#settings")
            tab.click("#temperature")
            tab.type("0")
            tab.press("Enter")
            ask(tab, "hello")
            settled(tab, 2)
    finally:
        manager.close()
    base, cynic = tab.js("[...document.querySelectorAll('.answer .body')].map((one) => one.textContent)")
    assert base != cynic
    facts = tab.js("[...document.querySelectorAll('.answer .facts')].map((one) => one.innerText)")
    assert all("12 tokens" in one and "cut at the most tokens allowed" in one for one in facts)
    assert violations(tab) == []
    assert tab.js("document.querySelector('#notice').hidden")
