"""The page in a real browser by keyboard, for screen readers, dark and light, narrow and wide."""

from __future__ import annotations

from browser import SHIFT, Tab
from page_server import PageServer, Reply
from page_steps import MARKDOWN, ask, settled

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


OUTLINED = """[0, 1].some((level) => {
  const one = level ? document.activeElement.parentElement : document.activeElement;
  return getComputedStyle(one).outlineStyle !== 'none';
})"""


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
        assert page.js(OUTLINED), reached
        page.press("Tab")
    order = ["skip", "new", "reload", "pick-0", "compare", "settings", "theme", "transcript", "prompt"]
    assert [one for one in reached if one in order] == order
    assert reached.count("pick") == 3
    page.js("document.querySelector('#compare').focus()")
    page.press(" ")
    assert page.js("document.querySelector('#compare').ariaPressed") == "true"
    page.press("Tab", SHIFT)
    assert page.js("document.activeElement.id") == "pick-1"


def test_enter_sends_and_shift_enter_makes_a_line(page: Tab, server: PageServer) -> None:
    page.click("#prompt")
    page.press("Enter")
    page.type("one")
    low = page.js("document.querySelector('#prompt').clientHeight")
    page.press("Enter", SHIFT)
    page.type("two")
    assert server.asked == []
    assert page.js("document.querySelector('#prompt').clientHeight") > low
    page.press("Enter")
    settled(page, 1)
    assert server.asked[0]["messages"] == [{"role": "user", "content": "one\ntwo"}]
    assert page.js("document.querySelector('#prompt').value") == ""
    assert page.js("document.activeElement.id") == "prompt"


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


WIDE = """[document.documentElement, document.body, ...document.querySelectorAll('.stage, .bar, main, .answer, .body')]
  .filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.className)"""
SCROLLED = """['.code pre', '.table'].map((name) => [...document.querySelectorAll(name)].at(-1))
  .map((one) => { one.scrollLeft = 9999; return one.scrollLeft > 0 && getComputedStyle(one).overflowX === 'auto'; })"""
INSIDE = (
    "(r => r.left >= 0 && r.right <= innerWidth)(document.querySelector('#settings-dialog').getBoundingClientRect())"
)


def test_nothing_is_wider_than_the_window(page: Tab, server: PageServer) -> None:
    code = "\n\n```\n" + "b" * 300 + "\n```\n"
    rows = "|a" * 30 + "\n" + "|-" * 30 + "\n" + "|word" * 30
    server.answer = lambda body: Reply(MARKDOWN + "a" * 300 + code + "https://ok.example/" * 30 + "\n\n" + rows)
    page.click("#compare")
    ask(page, "c" * 200)
    settled(page, 2)
    for width in (320, 360, 768, 1280, 1900):
        page.resize(width)
        assert page.js("innerWidth") == width
        assert page.js(WIDE) == [], width
        assert page.js(SCROLLED) == [True, True], width
        page.click("#settings")
        assert page.js(INSIDE), width
        page.press("Escape")


def test_an_empty_conversation_begins_at_its_top(page: Tab) -> None:
    page.resize(360, 560)
    page.js("document.querySelector('#new').click()")
    assert page.js("document.querySelector('main').scrollHeight > document.querySelector('main').clientHeight")
    assert page.js("document.querySelector('main').scrollTop") == 0


def test_the_side_opens_over_a_narrow_page(page: Tab) -> None:
    page.resize(360)
    page.wait("document.querySelector('.bar .menu').checkVisibility()")
    assert page.js("document.querySelector('#side').checkVisibility()") is False
    page.wait("(document.querySelector('.bar .menu').focus(), document.activeElement.className === 'icon menu')")
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
