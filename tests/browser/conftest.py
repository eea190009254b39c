"""A broker in a thread, Debian's Chromium, and visits to the page that notice what must never happen.

Skipped where Playwright or Chromium is missing. ``TAPECAST_CHROMIUM`` names a browser to use.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import trio

from broker.core.ticks import Tick
from tests.fakes import RunningBroker, Setup

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, WebSocket

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
#: For what a loaded machine takes its time to do; nothing waits for it to pass.
PATIENCE_MS = 30_000


class BrokerThread:
    """A broker that runs under Trio in a thread of its own, because Playwright's calls block.

    Attributes:
        broker: its parts; look at plain numbers only, they belong to the other thread.
    """

    def __init__(self, *, port: int = 0, **changes: Any) -> None:
        """``changes`` are those of `Setup`; ``port`` 0 takes a free one."""
        self.broker: RunningBroker
        self._setup = Setup(**changes)
        self._port = port
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._is_ready.wait(PATIENCE_MS / 1000)

    async def _main(self) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            listener.listen(64)
            listener.setblocking(False)
            self._token = trio.lowlevel.current_trio_token()
            self.broker = RunningBroker(self._setup, listener)
            with trio.CancelScope() as self._life:
                self._is_ready.set()
                await self.broker.run()

    @property
    def port(self) -> int:
        return self.broker.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def publish(self, *ticks: Tick) -> None:
        """Put ticks on the tape, all of them before any subscriber is written to."""
        trio.from_thread.run_sync(self.broker.publish, *ticks, trio_token=self._token)

    def drain(self) -> None:
        """Go down as on SIGTERM: whoever is there is told."""
        trio.from_thread.run_sync(self.broker.stop.set, trio_token=self._token)
        self._thread.join()

    def kill(self) -> None:
        """Go down at once. Harmless when repeated."""
        if self._thread.is_alive():
            trio.from_thread.run_sync(self._life.cancel, trio_token=self._token)
            self._thread.join()


@pytest.fixture
def start_broker() -> Iterator[Callable[..., BrokerThread]]:
    """Start brokers that end with the test."""
    threads: list[BrokerThread] = []

    def start(**options: Any) -> BrokerThread:
        threads.append(BrokerThread(**options))
        return threads[-1]

    yield start
    for thread in threads:
        thread.kill()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of the whole run."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = os.environ.get("TAPECAST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium here; TAPECAST_CHROMIUM can name one")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One tab with the page.

    Attributes:
        faults: exceptions, broken security policies and requests to elsewhere; a test fails on any.
        complaints: errors and warnings on the console; a connection that can't be made is one.
        requests: addresses of all requests, without the origin.
        sent: what went to the broker over WebSockets.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.sent: list[str] = []
        self._origin = url.rstrip("/")
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", self._note)
        page.on("websocket", self._note_websocket)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)
        if "Content Security Policy" in message.text:
            self.faults.append(message.text)

    def _note(self, request: Request) -> None:
        self._check(request.url)

    def _note_websocket(self, socket: WebSocket) -> None:
        self._check(socket.url.replace("ws://", "http://", 1))
        socket.on("framesent", lambda payload: self.sent.append(str(payload)))

    def _check(self, url: str) -> None:
        if url.startswith(self._origin + "/"):
            self.requests.append(url.removeprefix(self._origin))
        else:
            self.faults.append(f"a request to {url}")

    def cell(self, symbol: str, column: str) -> str:
        """Return what a cell of the table shows."""
        return self.page.locator(f'tr[data-symbol="{symbol}"] .{column}').text_content() or ""

    def wait_for_cell(self, symbol: str, column: str, text: str) -> None:
        """Wait until a cell of the table shows exactly this."""
        self.page.wait_for_function(
            """([symbol, column, text]) =>
              document.querySelector(`tr[data-symbol="${symbol}"] .${column}`)?.textContent === text""",
            arg=[symbol, column, text],
        )

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element's text contains this."""
        self.page.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)",
            arg=[selector, text],
        )

    def wait_for_title(self, title: str) -> None:
        """Wait until the tab is called exactly this; one that tries again passes through other titles."""
        self.page.wait_for_function("(title) => document.title === title", arg=title)

    def wait_for_symbols(self, *symbols: str) -> None:
        """Wait until the table has exactly these rows, in this order."""
        self.page.wait_for_function(
            """(symbols) => [...document.querySelectorAll("#rows tr")].map((row) => row.dataset.symbol).join()
              === symbols.join()""",
            arg=list(symbols),
        )

    def wait_until_connected(self, name: str = "") -> None:
        """Wait until the page is connected, over the transport of this name."""
        self.wait_for_text("#state-text", f"Connected over {name}")

    def add(self, text: str) -> None:
        """Type into the field, and press Enter."""
        self.page.fill("#symbol", text)
        self.page.press("#symbol", "Enter")

    def use(self, transport: str) -> None:
        """Flip the switch."""
        self.page.check(f"[name=transport][value={transport}]")

    def run(self, body: str) -> Any:
        """Return what an async function body returns that may import the page's modules."""
        return self.page.evaluate(f"async () => {{ {body} }}")


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Open the page, as often as wanted; what must never happen fails the test."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def open_page(url: str, fragment: str = "") -> Visit:
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 800}))
        visits.append(Visit(contexts[-1].new_page(), url))
        visits[-1].page.goto(url + fragment)
        return visits[-1]

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for each in visits for fault in each.faults] == []
