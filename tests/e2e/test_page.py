"""The page at `/` in a real browser: what a person sees, types and hears, and what a hostile answer can do with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, Tab, chromium, executable
from page_server import PageServer, serve_page

CHROMIUM = executable()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt install chromium)")


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


def test_the_profiles_are_listed_with_size_and_quality(page: Tab) -> None:
    names = page.js("[...document.querySelectorAll('#profiles .name')].map((name) => name.innerText)")
    assert names == ["smollm2-135m", "cynic", "hacker"]
    assert page.js("[...document.querySelectorAll('#profiles li:nth-child(2) small')].map((s) => s.innerText)") == [
        "13.9 MB · 1.03 bits per weight",
        "loss 3.12 → 2.41 · keeps 94 % of the gain",
    ]
