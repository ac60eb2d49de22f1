"""The page at `/` in a real browser: what a person sees, types and hears, and what a hostile answer can do with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from browser import Browser, Tab, chromium, executable
from page_server import PageServer, Reply, serve_page

CHROMIUM = executable()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")

MARKDOWN = """# Title

Some **bold**, *italic* and `code`, see [a page](https://example.org/a?b=1).

1. one
2. two
   - below

> quoted

```python
print("<b>")
```

| a | b |
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with chromium(CHROMIUM) as started:
        yield started


@pytest.fixture(scope="module")
def served() -> Iterator[PageServer]:
    with serve_page() as server:
        yield server


@pytest.fixture
def server(served: PageServer) -> PageServer:
    served.reset()
    return served


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    with browser.tab() as opened:
        yield opened


@pytest.fixture
def page(tab: Tab, server: PageServer) -> Tab:
    """The page with its list of profiles."""
    tab.open(server.url, "document.querySelector('#profiles .pick')")
    return tab


def ask(page: Tab, text: str) -> None:
    page.click("#prompt")
    page.type(text)
    page.press("Enter")


def settled(page: Tab, answers: int, status: str = "done") -> None:
    """Waits until there are so many answers and the last one has ended in this way, and none is running."""
    page.wait(
        f"document.querySelectorAll('.turns .answer').length === {answers}"
        f" && [...document.querySelectorAll('.turns .answer')].at(-1).dataset.status === '{status}'"
        " && !document.querySelector('.turns [data-status=waiting], .turns [data-status=writing]')"
    )


def choose(page: Tab, side: int, model: str) -> None:
    """Picks a model by typing its name's first letters, as a list of options takes them."""
    page.js(f"document.querySelector('#pick-{side}').focus()")
    page.write(model.rpartition("@")[2])


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_profiles_are_listed_with_size_and_quality(page: Tab) -> None:
    names = page.js("[...document.querySelectorAll('#profiles .name')].map((name) => name.innerText)")
    assert names == ["smollm2-135m", "cynic", "hacker"]
    assert page.js("[...document.querySelectorAll('#profiles li:nth-child(2) small')].map((s) => s.innerText)") == [
        "13.9 MB · 1.03 bits per weight",
        "loss 3.12 → 2.41 · keeps 94 % of the gain",
    ]


def test_an_answer_is_shown_as_markdown(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply(MARKDOWN + "Grüße, 世界 🙂")
    ask(page, "Say <b>something</b>\u2028")
    settled(page, 1)
    assert page.js("document.querySelector('.question').innerText").endswith("Say <b>something</b>\u2028")
    shape = page.js("[...document.querySelector('.answer .body').children].map((one) => one.localName)")
    assert shape == ["h4", "p", "ol", "blockquote", "div", "p"]
    assert page.js("document.querySelector('.body ol > li:nth-child(2) > ul > li').innerText") == "below"
    assert page.js("document.querySelector('.body pre code').textContent") == 'print("<b>")'
    assert [page.text(f".body p {name}") for name in ("strong", "em", "code", "a")] == [
        "bold",
        "italic",
        "code",
        "a page",
    ]
    assert page.js("document.querySelector('.body').lastChild.innerText") == "| a | b |\nGrüße, 世界 🙂"
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
