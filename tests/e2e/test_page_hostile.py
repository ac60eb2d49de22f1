"""The page in a real browser against hostile answers and names, and against whatever else gets into it."""

from __future__ import annotations

import base64
import hashlib
import re
from random import Random
from urllib.request import Request, urlopen

import pytest
from browser import Tab
from page_server import PageServer, Reply
from page_steps import MARKDOWN, ask, settled, violations

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


def test_broken_markdown_is_shown(reused: Tab, server: PageServer) -> None:
    for text in FENCES:
        told(reused, server, text)
        assert (HIT in text) == (HIT in reused.js("document.querySelector('.body').textContent")), text
    hears_nothing(reused, server)


MARKS = (
    *("*", "**", "_", "__", "`a", "``b", "[", "](", ")", "<", ">", "|", "\\", " ", "\n", "\n\n"),
    *("\n- ", "\n  - ", "\n1. ", "\n> ", "\n# ", "\n|a|b|\n|-|-|\n|"),
)


def test_no_letter_is_lost_and_pieces_make_no_difference(reused: Tab, server: PageServer) -> None:
    random = Random(5)
    for _ in range(6):
        text = "".join(random.choice([*MARKS, *"abcdef"]) for _ in range(600))
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
    "dashes": ("| a |\n" + "-" * 30_000 + "x|\n") * 20,
    "angles": "<http:" * 10_000,
    "fences": "```\n" * 5_000,
    "rules": "- " * 3_000 + "x\n" + "-" * 10_000 + " " * 10_000 + "x",
}


def worked_s(page: Tab) -> float:
    """What the page's main thread has worked so far: script, style and layout, in seconds of the processor."""
    metrics = page.call("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_answer_leaves_the_page_usable(reused: Tab, server: PageServer, name: str) -> None:
    reused.call("Performance.enable", timeDomain="threadTicks")
    before = worked_s(reused)
    told(reused, server, HUGE[name], piece=4_000)
    assert worked_s(reused) - before < 2
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
    with urlopen(server.url) as page, urlopen(Request(server.url, method="HEAD")) as head:
        headers, text = page.headers, page.read().decode()
        assert head.headers["content-security-policy"] == headers["content-security-policy"]
    assert headers["content-type"] == "text/html; charset=utf-8"
    for name, value in (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")):
        assert headers[name] == value
    rules = dict(rule.strip().partition(" ")[::2] for rule in headers["content-security-policy"].split(";"))
    assert rules.pop("img-src") == "data:"
    assert rules.pop("connect-src") == "'self'"
    for name, element in (("script-src", "script"), ("style-src", "style")):
        (inline,) = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules.pop("require-trusted-types-for") == "'script'"
    assert rules == dict.fromkeys(
        ("default-src", "base-uri", "form-action", "frame-ancestors", "trusted-types"), "'none'"
    )
    assert not re.search(r"""\son[a-z]+\s*=\s*["']|\sstyle\s*=\s*["']|https?://(?!www\.w3\.org/2000/svg)""", text)


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
