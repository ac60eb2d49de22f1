"""The page at `/` in a real browser: what a person sees, types and hears, and what a hostile answer can do with it."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from random import Random

import httpx
import pytest
from browser import SHIFT, Browser, Tab, chromium, executable
from page_server import PageServer, Reply, serve_page
from served import listening

from tests.unit.adapter.test_resident_set import profile_of
from zen_mlx import ZenPersonalizationManager
from zen_mlx.config import ServeOptions
from zen_mlx.server.app import create_app
from zen_mlx.server.guard import Guard
from zen_mlx.server.keys import create_keys, read_keys

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

| name | value |
| :--- | ----: |
| `a`  | **1** |
| b    |

| no | table |
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


@pytest.fixture(scope="module")
def shared_page(browser: Browser, served: PageServer) -> Iterator[Tab]:
    with browser.tab() as opened:
        opened.open(served.url, "document.querySelector('#profiles .pick')")
        yield opened


@pytest.fixture
def reused(shared_page: Tab, server: PageServer) -> Tab:
    """A page that tests use one after the other, each with a new conversation."""
    shared_page.events.clear()
    shared_page.click("#new")
    return shared_page


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


def type_key(page: Tab, key: str) -> None:
    page.wait("document.querySelector('#key-dialog[open]')")
    page.type(key)
    page.press("Enter")


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


def test_the_time_to_come_back_may_be_a_date(reused: Tab, server: PageServer) -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    server.answer = lambda body: Reply("full", 429, {"Retry-After": date})
    ask(reused, "hi")
    settled(reused, 1, "failed")
    assert reused.js(f"new Date('{date}').toLocaleTimeString()") in reused.text(".answer .wrong p")
    assert re.fullmatch(r"Try again in \d\d s|Try again in 100 s", reused.text(".answer .wrong button"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "The server did not take the request (HTTP 400). temperature: too hot"),
        (403, "The server does not allow this. temperature: too hot"),
        (404, "The server does not have this model or profile (any more). temperature: too hot"),
        (413, "This is too long for the server. temperature: too hot"),
        (429, "The server has all the work it can take. Try again in a moment. temperature: too hot"),
        (500, "The server failed (HTTP 500). temperature: too hot"),
        (503, "The server is not ready or is stopping. temperature: too hot"),
    ],
)
def test_what_the_server_refuses_is_told(reused: Tab, server: PageServer, status: int, words: str) -> None:
    server.answer = lambda body: Reply("temperature: too hot", status)
    ask(reused, "hi")
    settled(reused, 1, "failed")
    assert reused.text(".answer .wrong p") == words


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


def test_a_server_that_breaks_the_answer_off_is_told(reused: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply("Half of", error="the server ended this answer")
    ask(reused, "hi")
    settled(reused, 1, "failed")
    assert reused.text(".answer .wrong p") == "The server broke the answer off. the server ended this answer"
    assert reused.text(".answer .body") == "Half of"


def test_thoughts_are_no_part_of_the_answer(reused: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply("", thought="Hm.", hold=True)
    ask(reused, "hi")
    reused.wait("document.querySelector('.answer .facts').innerText === 'Thinking'")
    reused.press("Escape")
    settled(reused, 1, "stopped")
    server.answer = lambda body: Reply("", thought="Hm.", finish="length")
    reused.click(".answer footer button:nth-child(2)")
    settled(reused, 1)
    assert reused.text(".facts").startswith("no text came · cut at the most tokens allowed")


# Hostile texts. HIT would be set by anything that runs.

ALLOWED = "h4 h5 h6 p ul ol li blockquote hr a strong em code pre table thead tbody tr th td div span button svg use"
HIT = "window.hit=1"
LINKS = [
    f"{name}:{HIT}"
    for name in (
        "javascript",
        "JaVaScRiPt",
        "java\tscript",
        " javascript",
        "\x01javascript",
        "javascript&colon;",
        "&#106;avascript",
        "java%73cript",
        "vbscript",
        "data:text/html,<script>",
        "blob",
        "file",
        "view-source:javascript",
        "//evil.example/javascript",
        "jar:javascript",
        "filesystem",
        "intent",
    )
]
MARKUP = [
    f"<script>{HIT}</script>",
    f"<img src=x onerror={HIT}>",
    f"<svg onload={HIT}><animate onbegin={HIT}></svg>",
    f"<iframe srcdoc='<script>parent.{HIT}</script>'></iframe>",
    f"<a href='javascript:{HIT}'>click</a>",
    f"<details open ontoggle={HIT}>",
    f"<form action=https://evil.example/><input autofocus onfocus={HIT}>",
    "<style>@import 'https://evil.example/a.css'; * { display: none }</style>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "<base href=https://evil.example/><link rel=stylesheet href=/x>",
    f"<math><mtext></p><img src=x onerror={HIT}></mtext></math>",
    f"&lt;script&gt;{HIT}&lt;/script&gt; &#60;img src=x onerror={HIT}&#62;",
    f"![x](https://evil.example/x.png) ![x](x.png) ![x](data:image/svg+xml,<svg/onload={HIT}>)",
    f'[x](https://ok.example "\' onmouseover={HIT}") [x](https://ok.example/"onmouseover="{HIT})',
    f"[x](<https://ok.example/' onclick={HIT}>) <https://ok.example/\"onclick={HIT}>",
    f"`<script>{HIT}</script>` **<b onclick={HIT}>** [<img src=x onerror={HIT}>](https://ok.example)",
    "[a [b](https://in.example) c](https://out.example) [](https://empty.example) [x](https://user:word@ok.example)",
    "[\u202egro.elpmaxe](https://ok.example/) \u202eknil \u2066\u2067\u202d",
    "</div></article></main><h1>out</h1>",
    "{{constructor.constructor('window.hit=1')()}} ${window.hit=1} <%= 1 %>",
]
FENCES = [
    f"```html\n<script>{HIT}</script>",
    f'```"><img src=x onerror={HIT}>\n```\n<script>{HIT}</script>',
    f"~~~\n```\n<script>{HIT}</script>\n```",
    f"````\n```\n````\n```\n<script>{HIT}</script>\n~~~",
    f"> ```\n<script>{HIT}</script>\n> ```",
    f"- ```\n  <script>{HIT}</script>\n- ```",
    "``` ` ```\n`\n``\n```",
    "```",
    "\n\n\r\n\r```\r\ncode\r```\r",
    "**_`[*](",
    "[a](b [c](https://ok.example [d](<https://ok.example",
    "\\",
    f"| a | {HIT} |\n|---|---|\n| <script>{HIT}</script> | b | c | d\n|\n||||||\n| \\| `|` |\n> | x |",
    "a|b\n-|-\n-|-\nc|d\n| - |\n|:-:|\n",
    "> - > - > - > - > - > - > - > - deep\n1. - 2) * + 3.\n#\n####### seven\n---\n***\n- - -",
    "\x00\x01\x7f\ufeff\ufffd\ufffe\U0010ffff\u2028\u2029\u200b\u0300" + "\u0301" * 200,
]


def violations(page: Tab) -> list[str]:
    """What the Content-Security-Policy stopped."""
    issues = [event["issue"] for event in page.of("Audits.issueAdded")]
    return [str(issue["details"]) for issue in issues if issue["code"] == "ContentSecurityPolicyIssue"]


def hears_nothing(page: Tab, server: PageServer) -> None:
    """Nothing ran, left, opened, or was said to the console, since the last `events.clear()`."""
    assert page.js("window.hit === undefined && document.cookie === '' && localStorage.length === 0")
    loud = ("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    away = ("Page.frameNavigated", "Page.frameAttached", "Page.windowOpen")
    assert page.of(*loud, *away) == []
    assert violations(page) == []
    assert all(one["request"]["url"].startswith(server.url) for one in page.of("Network.requestWillBeSent"))


def shown(page: Tab) -> list[str]:
    """The names of the elements below the last answer; asserts what holds for every one of them."""
    names: list[str] = page.js(
        """[...[...document.querySelectorAll('.answer .body')].at(-1).querySelectorAll('*')].map((one) => {
          for (const {name} of one.attributes) if (/^on|^style$|^src|^id$/.test(name)) throw name;
          if (one.localName === 'use' && !/^#i-/.test(one.getAttribute('href'))) throw 'use';
          if (one.localName !== 'a') return one.localName;
          if (!['http:', 'https:', 'mailto:'].includes(one.protocol) || one.username) throw one.href;
          if (one.rel !== 'noopener noreferrer' || one.target !== '_blank' || one.title !== one.href) throw one.rel;
          if (!one.textContent.trim() || getComputedStyle(one).unicodeBidi !== 'isolate') throw one.outerHTML;
          return 'a';
        })"""
    )
    assert set(names) <= set(ALLOWED.split())
    return names


def told(page: Tab, server: PageServer, text: str, piece: int = 7) -> list[str]:
    """`shown` for this answer in a new conversation."""
    server.answer = lambda body: Reply(text, piece=piece)
    page.click("#new")
    ask(page, "hi")
    settled(page, 1)
    return shown(page)


def test_hostile_links_stay_text(reused: Tab, server: PageServer) -> None:
    forms = [f"[x]({link}) [x](<{link}>) <{link}> {link}" for link in LINKS]
    names = told(reused, server, "\n\n".join(forms), piece=60)
    assert set(names) <= {"p", "a"}
    assert reused.js("[...document.querySelectorAll('.body a')].map((one) => one.href)") == []
    assert reused.js("document.querySelector('.body').textContent").count("javascript:") >= 8
    told(
        reused, server, "[x](HTTPS://OK.example/a(b)c) <mailto:a@ok.example> (https://ok.example/a_(b)). http://1.2.3.4"
    )
    assert reused.js("[...document.querySelectorAll('.body a')].map((one) => one.href)") == [
        "https://ok.example/a(b)c",
        "mailto:a@ok.example",
        "https://ok.example/a_(b)",
        "http://1.2.3.4/",
    ]
    hears_nothing(reused, server)


def test_hostile_markup_stays_text(reused: Tab, server: PageServer) -> None:
    told(reused, server, "\n\n".join(MARKUP))
    text = reused.js("document.querySelector('.body').textContent")
    for markup in MARKUP[:12]:
        assert markup in text
    hosts = reused.js("[...document.querySelectorAll('.body a')].map((one) => one.hostname)")
    assert set(hosts) == {"evil.example", "ok.example", "out.example", "empty.example"}
    assert reused.count(".body a a") == 0
    assert reused.count("body > h1, .stage > h1, form[action], iframe, img, script:not([type=module])") == 0
    hears_nothing(reused, server)


@pytest.mark.parametrize("number", range(len(FENCES)))
def test_broken_markdown_is_shown(reused: Tab, server: PageServer, number: int) -> None:
    told(reused, server, FENCES[number])
    assert (HIT in FENCES[number]) == (HIT in reused.js("document.querySelector('.body').textContent"))
    hears_nothing(reused, server)


def test_no_letter_is_lost_and_pieces_make_no_difference(reused: Tab, server: PageServer) -> None:
    marks = [
        "*",
        "**",
        "_",
        "__",
        "`a",
        "``b",
        "[",
        "](",
        ")",
        "<",
        ">",
        "\n",
        "\n\n",
        "\n- ",
        "\n  - ",
        "\n1. ",
        "\n> ",
        "\n# ",
        "\\",
        " ",
    ]
    random = Random(5)
    for _ in range(6):
        text = "".join(random.choice([*marks, *"abcdef"]) for _ in range(600))
        told(reused, server, text)
        in_pieces = reused.js("document.querySelector('.body').innerHTML")
        letters = "document.querySelector('.body').textContent.replace(/[^a-f]/g, '')"
        assert reused.js(letters) == re.sub("[^a-f]", "", text)
        told(reused, server, text, piece=10_000)
        assert reused.js("document.querySelector('.body').innerHTML") == in_pieces
    hears_nothing(reused, server)


HUGE = {
    "line": "word " * 40_000,
    "word": "a" * 200_000,
    "list": "- item\n" * 4_000,
    "brackets": "[" * 20_000,
    "links": "[x](" + " " * 20_000 + "[x](https://ok.example " * 2_000,
    "stars": "*a **b " * 10_000 + "*" * 10_000,
    "backticks": "".join("`" * (number % 70) + "a" for number in range(3_000)),
    "quotes": "> " * 10_000,
    "bullets": "- " * 10_000,
    "depth": "\n".join("  " * number + "- a" for number in range(400)),
    "table": "|a|b|c|\n|-|-|-|\n" + "|x|**y**|[z](https://ok.example)|\n" * 1_000,
    "bars": "|" * 50_000 + "\n" + "|-" * 25_000 + "\n" + "|a|\n|-|\n" * 1_000 + "|-" * 20_000,
    "angles": "<http:" * 10_000,
    "fences": "```\n" * 5_000,
    "rules": "- " * 3_000 + "x\n" + "-" * 10_000 + " " * 10_000 + "x",
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_answer_leaves_the_page_usable(reused: Tab, server: PageServer, name: str) -> None:
    told(reused, server, HUGE[name], piece=4_000)
    assert reused.js("document.documentElement.scrollWidth <= innerWidth")
    hears_nothing(reused, server)


def test_hostile_names_and_questions_stay_text(tab: Tab, server: PageServer) -> None:
    name = f"<img src=x onerror={HIT}>\u202e"
    metrics = {"base_loss": f"<b>{HIT}", "profile_loss": 2, "retention": None}
    server.models = [{"id": f"base@{name}", "parent": "base", "zen": {"metrics": metrics}}, {"id": 7}, {}]
    tab.open(server.url, "document.querySelector('#profiles .pick')")
    tab.events.clear()
    ask(tab, name)
    settled(tab, 1)
    for place in ("#profiles .name", "#conversations .name", ".question", ".answer h3", "#pick-0 option", "#title"):
        assert HIT in tab.js(f"document.querySelector({place!r}).textContent")
    assert tab.count("img, b") == 0
    assert tab.count("#profiles li") == 1
    server.answer = lambda body: Reply(f"<b>{HIT}</b>", 400)
    ask(tab, "hi")
    settled(tab, 2, "failed")
    assert tab.count("b") == 0
    assert HIT in tab.text(".answer .wrong p, .turn:last-child .wrong p")
    assert not tab.of("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert tab.js("window.hit === undefined")


# What the page may do at all.


def test_the_headers_allow_the_page_itself_and_nothing_else(server: PageServer) -> None:
    page = httpx.get(server.url)
    assert httpx.head(server.url).headers["content-security-policy"] == page.headers["content-security-policy"]
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name, value in (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")):
        assert page.headers[name] == value
    rules = dict(rule.strip().partition(" ")[::2] for rule in page.headers["content-security-policy"].split(";"))
    assert rules.pop("img-src") == "data:"
    assert rules.pop("connect-src") == "'self'"
    for name, element in (("script-src", "script"), ("style-src", "style")):
        (text,) = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert rules == dict.fromkeys(
        ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"), "'none'"
    )
    assert not re.search(r"""\son[a-z]+\s*=\s*["']|\sstyle\s*=\s*["']|https?://(?!www\.w3\.org/2000/svg)""", page.text)


def test_nothing_is_refused_while_the_page_loads_and_answers(tab: Tab, server: PageServer) -> None:
    tab.open(server.url, "document.querySelector('#profiles .pick')")
    server.answer = lambda body: Reply(MARKDOWN)
    tab.click("#compare")
    ask(tab, "hi")
    settled(tab, 2)
    tab.click(".code button")
    tab.wait("document.querySelector('.code button').innerText !== 'Copy'")
    tab.click("#settings")
    tab.press("Escape")
    assert violations(tab) == []
    assert not tab.of("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert {one["request"]["url"] for one in tab.of("Network.requestWillBeSent")} - {server.url} == {
        f"{server.url}v1/models",
        f"{server.url}v1/chat/completions",
    }


ADD = "const add = (name, properties) => document.body.appendChild(Object.assign(document.createElement(name), properties));"
ATTEMPTS = [
    f"add('script', {{text: '{HIT}'}})",
    f"document.body.innerHTML += '<img src=x onerror={HIT}>'",
    f"document.body.setAttribute('onclick', '{HIT}'); document.body.click()",
    f"new Function('{HIT}')()",
    f"add('iframe', {{srcdoc: '<script>parent.{HIT}</script>'}})",
    f"add('a', {{href: 'javascript:{HIT}'}}).click()",
    "add('img', {src: '/health'})",
    "add('style', {textContent: 'body { display: none }'})",
    "add('form', {action: '/away'}).submit()",
    "fetch('http://localhost:9/')",
]


def test_what_is_put_into_the_page_does_not_run(page: Tab, server: PageServer) -> None:
    page.js("document.addEventListener('securitypolicyviolation', () => { window.stopped = true; })")
    server.seen.clear()
    for attempt in ATTEMPTS:
        page.js(f"window.stopped = false; setTimeout(() => {{ {ADD} {attempt} }}); 0")
        page.wait("window.stopped")
        assert page.js("window.hit === undefined && getComputedStyle(document.body).display !== 'none'"), attempt
    assert server.seen == []
    assert page.js("location.href") == server.url


# Keys, screen readers, colours.

NAMED = {"button", "combobox", "textbox", "spinbutton", "link", "main", "navigation", "dialog", "region", "article"}


def nodes(page: Tab) -> list[tuple[str, str]]:
    """(role, name) of what a screen reader sees, in order."""
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    seen = [node for node in tree if not node["ignored"] and "role" in node]
    return [(node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in seen]


def test_every_control_has_a_name(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply(MARKDOWN)
    page.click("#compare")
    ask(page, "hi")
    settled(page, 2)
    seen = nodes(page)
    page.click("#settings")
    seen += nodes(page)
    assert [role for role, name in seen if role in NAMED and not name] == []
    assert {name for role, name in seen if role == "combobox"} == {"First profile", "Second profile"}
    assert {name for role, name in seen if role == "article"} == {"Answer of smollm2-135m", "Answer of cynic"}
    assert {
        ("textbox", "Message"),
        ("button", "Send"),
        ("button", "Compare"),
        ("dialog", "Settings"),
        ("form", "Your message"),
    } <= set(seen)
    assert {("spinbutton", name) for name in ("Temperature", "Top p", "Most tokens")} <= set(seen)
    levels = page.js("[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((one) => Number(one.localName[1]))")
    assert levels.count(1) == 1


def test_keys_alone_reach_everything(page: Tab, server: PageServer) -> None:
    assert page.js("document.activeElement.id") == "prompt"
    page.js("document.activeElement.blur(), document.querySelector('.skip').focus()")
    assert page.js("document.querySelector('.skip').getBoundingClientRect().y >= 0")
    page.press("Enter")
    assert page.js("document.activeElement.id") == "prompt"
    page.js("document.querySelector('.skip').focus()")
    reached = []
    while (now := page.js("(e => e.id || e.title || e.className)(document.activeElement)")) != "send":
        reached.append(now)
        assert len(reached) < 40, reached
        assert page.js("(s => s.outlineStyle !== 'none' || s.boxShadow)(getComputedStyle(document.activeElement))")
        page.press("Tab")
    order = ["skip", "new", "reload", "pick-0", "compare", "settings", "theme", "transcript", "prompt"]
    assert [one for one in reached if one in order] == order
    assert reached.count("pick") == 3
    page.js("document.querySelector('#compare').focus()")
    page.press(" ")
    assert page.js("document.querySelector('#compare').ariaPressed") == "true"
    page.press("Tab", SHIFT)
    assert page.js("document.activeElement.id") == "pick-1"


def test_enter_sends_and_shift_enter_makes_a_line(reused: Tab, server: PageServer) -> None:
    reused.click("#prompt")
    reused.press("Enter")
    reused.type("one")
    low = reused.js("document.querySelector('#prompt').clientHeight")
    reused.press("Enter", SHIFT)
    reused.type("two")
    assert server.asked == []
    assert reused.js("document.querySelector('#prompt').clientHeight") > low
    reused.press("Enter")
    settled(reused, 1)
    assert server.asked[0]["messages"] == [{"role": "user", "content": "one\ntwo"}]
    assert reused.js("document.querySelector('#prompt').value") == ""
    assert reused.js("document.activeElement.id") == "prompt"


def test_a_dialog_keeps_the_focus_and_gives_it_back(page: Tab) -> None:
    page.js("document.querySelector('#settings').focus()")
    page.press("Enter")
    page.wait("document.querySelector('#settings-dialog[open]')")
    for _ in range(12):
        page.press("Tab")
        assert page.js("document.activeElement === document.body || document.activeElement.closest('dialog') !== null")
    page.press("Escape")
    page.wait("!document.querySelector('dialog[open]')")
    assert page.js("document.activeElement.id") == "settings"


def test_a_finished_answer_is_said_once(page: Tab, server: PageServer) -> None:
    page.js(
        "window.said = [], new MutationObserver((all) => all.forEach((one) => one.addedNodes.forEach((node) =>"
        " window.said.push(node.textContent)))).observe(document.querySelector('#spoken'), {childList: true}), 0"
    )
    server.answer = lambda body: Reply("A long answer in many pieces.")
    ask(page, "hi")
    settled(page, 1)
    assert page.js("window.said") == ["smollm2-135m is answering.", "smollm2-135m: A long answer in many pieces."]
    assert page.js("(s => [s.getAttribute('role'), s.ariaLive])(document.querySelector('#spoken'))") == [
        "status",
        "polite",
    ]
    assert page.count(".body [aria-live], .transcript[aria-live], .turns [aria-live]") == 0
    assert page.js("document.querySelector('.answer').ariaBusy") == "false"


CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const pixel = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, share, at) => {
    const value = colour[at] / 255;
    return sum + share * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = pixel(getComputedStyle(one).backgroundColor);
      if (colour[3] === 255) return colour;
      if (colour[3] !== 0) throw one.outerHTML;
    }
  };
  const ratios = {};
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text; text = walk.nextNode()) {
    const one = text.parentElement;
    const name = text.data.trim().slice(0, 40);
    if (!name || !one.checkVisibility({visibilityProperty: true}) || one.closest('.unseen, script, option')) continue;
    const [a, b] = [light(pixel(getComputedStyle(one).color)), light(ground(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    ratios[name] = Math.min(ratios[name] ?? ratio, ratio);
  }
  return ratios;
})()"""


def page_colour(page: Tab) -> int:
    """The red of the background, 0 to 255."""
    return int(page.js("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"))


def test_dark_and_light_follow_the_system_and_the_switch(page: Tab, server: PageServer) -> None:
    server.answer = lambda body: Reply(MARKDOWN)
    page.click("#compare")
    ask(page, "hi")
    settled(page, 2)
    server.answer = lambda body: Reply("No.", 400)
    ask(page, "hi")
    settled(page, 4, "failed")
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        assert (page_colour(page) > 200) == (scheme == "light")
        page.click("#settings")
        ratios = page.js(CONTRAST)
        page.press("Escape")
        assert len(ratios) > 30
        assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
    page.click("#theme")
    assert page_colour(page) > 200
    assert page.js("document.querySelector('#theme').ariaLabel") == "Dark colours"
    page.open(server.url, "document.querySelector('#profiles .pick')")
    assert page_colour(page) > 200
    page.click("#theme")
    page.scheme("light")
    assert page_colour(page) < 60


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_window(reused: Tab, server: PageServer, width: int) -> None:
    try:
        server.answer = lambda body: Reply(
            MARKDOWN + "a" * 300 + "\n\n```\n" + "b" * 300 + "\n```\n" + "https://ok.example/" * 30
        )
        reused.click("#compare")
        ask(reused, "c" * 200)
        settled(reused, 2)
        reused.resize(width)
        assert reused.js("innerWidth") == width
        wide = "[document.documentElement, document.body, ...document.querySelectorAll('.stage, .bar, main, .answer')]"
        assert (
            reused.js(f"{wide}.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.className)")
            == []
        )
        reused.click("#settings")
        assert reused.js(
            "(r => r.left >= 0 && r.right <= innerWidth)(document.querySelector('#settings-dialog').getBoundingClientRect())"
        )
        reused.press("Escape")
    finally:
        reused.resize(1280)
        reused.click("#compare")


def test_the_side_opens_over_a_narrow_page(page: Tab) -> None:
    page.resize(360)
    assert page.js("document.querySelector('#side').checkVisibility()") is False
    page.js("document.querySelector('.bar .menu').focus()")
    page.press("Enter")
    page.wait("document.querySelector('#side').checkVisibility()")
    page.press("Tab")
    assert page.js("document.querySelector('#side').contains(document.activeElement)")
    page.press("Escape")
    page.wait("!document.querySelector('#side').checkVisibility()")
    assert page.js("document.activeElement.className") == "icon menu"
    page.press("Enter")
    page.click("#profiles li:nth-child(2) .pick")
    assert page.js("document.querySelector('#pick-0').value") == "smollm2-135m@cynic"
    page.click("#new")
    page.wait("!document.querySelector('#side').checkVisibility()")


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
