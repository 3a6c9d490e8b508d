"""Fixtures for tests in a browser: a served home in this process, and Debian's Chromium to look at it."""

import os
import shutil
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from loop_home import copy_of
from loop_setup import Loop
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from pydantic import SecretStr

from feature_repo.settings import Settings
from ml.registry import alias_version, move_champion, open_registry, registry_lock
from serving.app import create_app

WAIT_MS = 20_000
"""How long something may take to show: other tests may be running."""

TOKEN = "token-of-this-test"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Site:
    """A service that answers.

    Attributes:
        url: where.
        settings: of its home; version 2 is champion when the tests begin.
    """

    url: str
    settings: Settings


def chromium() -> str:
    """Where the browser is.

    Raises:
        FileNotFoundError: there is none.
    """
    named = os.environ.get("PITWALL_CHROMIUM")
    found = named or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError(f"no browser: none of {', '.join(_NAMES)} is installed and PITWALL_CHROMIUM is not set")
    return found


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """The address of a service over a home, in a thread of this process, while the context lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the service ended while it started"
        assert time.monotonic() < deadline, "the service did not start within a minute"
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One headless Chromium for the tests of a module; while it is open, nothing else in this thread can run an event loop.

    Without one the tests fail in CI and are skipped elsewhere.
    """
    try:
        executable = chromium()
    except FileNotFoundError as error:
        if "CI" in os.environ:
            pytest.fail(str(error))
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def site(browser: Browser, loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A copy of the trained home with the candidate as champion, served with a token."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = copy_of(loop, tmp_path_factory.mktemp("site") / "home")
        settings = settings.model_copy(update={"api_token": SecretStr(TOKEN)})
        client = open_registry(settings)
        if alias_version(client, "champion") is None:  # whatever the gate said: the page is to roll it back
            with registry_lock(settings):
                move_champion(client, expected=None, new="2", reason="promote")
        with served(settings) as url:
            yield Site(url, settings)


@pytest.fixture
def context(browser: Browser, site: Site, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A fresh browser profile; indirect parameters are those of `Browser.new_context`."""
    asked: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, **getattr(request, "param", {})}
    opened = browser.new_context(base_url=site.url, **asked)
    opened.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab; whatever the browser complains about, the content security policy included, fails the test."""
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.complaints = complaints  # type: ignore[attr-defined]
    yield opened
    assert complaints == []
