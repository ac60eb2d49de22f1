"""The page in a browser: one Chromium and one server for each module that asks for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser import Browser, Tab, chromium, executable
from page_server import PageServer, serve_page

LISTED = "document.querySelector('#profiles .pick')"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = executable()
    if path is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with chromium(path) as started:
        yield started


@pytest.fixture(scope="module")
def _page_server() -> Iterator[PageServer]:
    with serve_page() as server:
        yield server


@pytest.fixture(scope="module")
def _module_tab(browser: Browser) -> Iterator[Tab]:
    with browser.tab() as opened:
        yield opened


@pytest.fixture
def server(_page_server: PageServer) -> PageServer:
    """Canned answers; as new for every test."""
    _page_server.reset()
    return _page_server


@pytest.fixture
def tab(_module_tab: Tab) -> Tab:
    """A blank tab, as new for every test."""
    _module_tab.forget()
    return _module_tab


@pytest.fixture
def page(tab: Tab, server: PageServer) -> Tab:
    """The page with its list of profiles."""
    tab.open(server.url, LISTED)
    tab.events.clear()
    return tab


@pytest.fixture(scope="module")
def _second_tab(browser: Browser, _page_server: PageServer) -> Iterator[Tab]:
    with browser.tab() as opened:
        opened.open(_page_server.url, LISTED)
        yield opened


@pytest.fixture
def reused(_second_tab: Tab, server: PageServer) -> Tab:
    """A page that tests use one after the other, each with a new conversation."""
    _second_tab.events.clear()
    _second_tab.click("#new")
    return _second_tab
