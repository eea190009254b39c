"""The page in a real browser, against a real broker."""

from __future__ import annotations

from collections.abc import Callable
from urllib.request import urlopen

import pytest

from broker.core.history import HistoryLimits
from broker.core.ticks import Quote, Trade
from broker.runtime.sessions import SessionTimes
from tests.browser.conftest import BrokerThread, Visit
from tests.fakes import ACME, BETA, GAMMA, SYMBOLS, quote, trade

Start = Callable[..., BrokerThread]
Open = Callable[..., Visit]

TRANSPORTS = {"ws": "WebSocket", "sse": "SSE", "fetch": "fetch"}
#: As the broker counts them.
SESSIONS = {"ws": "ws", "sse": "sse", "fetch": "ndjson"}
each_transport = pytest.mark.parametrize("transport", TRANSPORTS)


def priced(bid: str, ask: str, sym: str = ACME) -> Quote:
    return Quote(sym=sym, ts=1, rts=1, bid=bid, bid_size="1", ask=ask, ask_size="1")


def traded(price: str, sym: str = ACME) -> Trade:
    return Trade(sym=sym, ts=1, rts=1, price=price, size="1", side="buy", id="1")


@pytest.fixture
def running(start_broker: Start) -> BrokerThread:
    """A broker that knows three symbols and has no ticks yet."""
    return start_broker()


@each_transport
def test_prices_move_with_the_digits_that_the_venue_sent(
    running: BrokerThread, visit: Open, transport: str
) -> None:
    running.publish(priced("61837.60000000", "61837.70000000"), traded("61837.63000000"))
    page = visit(running.url, f"#transport={transport}")
    page.wait_until_connected(TRANSPORTS[transport])
    page.wait_for_cell(ACME, "last", "61837.63000000")
    page.wait_for_cell(ACME, "bid", "61837.60000000")
    page.wait_for_cell(ACME, "ask", "61837.70000000")
    page.wait_for_cell(ACME, "change", "0.00")
    running.publish(traded("61838.13000000"), priced("61838.10000000", "61838.20000000"))
    page.wait_for_cell(ACME, "last", "61838.13000000")
    page.wait_for_cell(ACME, "bid", "61838.10000000")
    page.wait_for_cell(ACME, "ask", "61838.20000000")
    page.wait_for_cell(ACME, "change", "+0.50")
    assert dict(running.broker.sessions.live) | {SESSIONS[transport]: 1} == dict(running.broker.sessions.live)
    assert page.complaints == []


def test_without_trades_the_change_is_that_of_the_middle(running: BrokerThread, visit: Open) -> None:
    running.publish(priced("10.00", "10.02"))
    page = visit(running.url)
    page.wait_for_cell(ACME, "change", "0.00")
    running.publish(priced("9.00", "9.02"))
    page.wait_for_cell(ACME, "change", "−1.00")
    page.wait_for_cell(ACME, "percent", "−9.99%")
    assert page.cell(ACME, "last") == "–"


def test_one_sided_market_shows_no_price_on_the_other_side(running: BrokerThread, visit: Open) -> None:
    running.publish(quote(n=7))
    page = visit(running.url)
    page.wait_for_cell(ACME, "bid", "7")
    assert page.cell(ACME, "ask") == "–"


@each_transport
def test_broker_that_dies_and_comes_back_is_found_again(
    start_broker: Start, visit: Open, transport: str
) -> None:
    first = start_broker(epoch="e1")
    first.publish(traded("1.5"), quote(BETA, 3))
    page = visit(first.url, f"#transport={transport}")
    page.wait_for_cell(ACME, "last", "1.5")
    first.kill()
    page.wait_for_text("#state-text", "Reconnecting")
    page.wait_for_title("Tapecast (waiting)")
    second = start_broker(port=first.port, epoch="e2")
    second.publish(traded("2.5"))
    page.wait_until_connected(TRANSPORTS[transport])
    page.wait_for_cell(ACME, "last", "2.5")
    page.wait_for_cell(ACME, "change", "+1.00")
    # Nobody knows how many ticks were missed, but that some may have been.
    page.wait_for_cell(ACME, "gaps", "1")
    assert page.cell(BETA, "bid") == "3"
    page.wait_for_title("Tapecast")


@each_transport
def test_broker_that_drains_says_so(start_broker: Start, visit: Open, transport: str) -> None:
    first = start_broker(drain_s=1.0)
    page = visit(first.url, f"#transport={transport}")
    page.wait_until_connected()
    first.drain()
    page.wait_for_text("#state-text", "Reconnecting: the broker is going down")
    second = start_broker(port=first.port)
    page.page.click("#retry")
    page.wait_until_connected(TRANSPORTS[transport])
    assert second.broker.sessions.opened == 1


@each_transport
def test_page_that_is_told_not_to_come_back_stops_and_says_why(
    start_broker: Start, visit: Open, transport: str
) -> None:
    running = start_broker(per_address=1)
    first = visit(running.url)
    first.wait_until_connected()
    second = visit(running.url, f"#transport={transport}")
    second.wait_for_text("#state-text", "Closed: too many sessions for this address")
    first.page.goto("about:blank")
    second.page.click("#retry")
    second.wait_until_connected(TRANSPORTS[transport])


@each_transport
def test_unknown_symbol_is_reported_and_leaves_the_watchlist_as_it_was(
    running: BrokerThread, visit: Open, transport: str
) -> None:
    page = visit(running.url, f"#transport={transport}")
    page.wait_for_symbols(*SYMBOLS)
    page.add("SIM:NOPE")
    page.wait_for_text("#complaint", "SIM:NOPE is not known here")
    assert page.page.get_attribute("#symbol", "aria-invalid") == "true"
    assert page.page.input_value("#symbol") == "SIM:NOPE"
    page.wait_for_symbols(*SYMBOLS)
    page.wait_until_connected(TRANSPORTS[transport])
    running.publish(trade(GAMMA, 4))
    page.wait_for_cell(GAMMA, "last", "4")
    # Said again when it is asked again.
    page.add("nope2, SIM:NOPE")
    page.wait_for_text("#complaint", "NOPE2 is not VENUE:SYMBOL; SIM:NOPE is not known here")


@each_transport
def test_unknown_symbol_alone_is_reported_too(running: BrokerThread, visit: Open, transport: str) -> None:
    page = visit(running.url, f"#symbols=&transport={transport}")
    page.wait_for_text("#state-text", "Nothing to watch")
    page.add("SIM:NOPE")
    page.wait_for_text("#complaint", "SIM:NOPE")
    page.wait_for_text("#state-text", "Nothing to watch")
    running.publish(trade(ACME, 4))
    page.add("acme")
    page.wait_for_cell(ACME, "last", "4")
    page.wait_for_symbols(ACME)


def test_unknown_symbol_of_a_link_is_shown_and_the_others_work(running: BrokerThread, visit: Open) -> None:
    running.publish(trade(ACME, 4))
    page = visit(running.url, "#symbols=SIM:ACME,SIM:NOPE,OTHER:*")
    page.wait_for_cell(ACME, "last", "4")
    page.wait_for_text("#complaint", "SIM:NOPE is not known here; OTHER:* is of a venue")
    assert page.page.locator("#chips [data-rejected]").all_text_contents() == ["SIM:NOPE×", "OTHER:*×"]
    page.page.get_by_label("Remove OTHER:*").click()
    page.page.get_by_label("Remove SIM:NOPE").click()
    assert page.page.locator("#chips li").count() == 0
    assert "#symbols=SIM:ACME&" in page.page.url


def test_another_transport_keeps_watchlist_and_numbers_and_resumes_by_cursor(
    running: BrokerThread, visit: Open
) -> None:
    running.publish(traded("10.00"))
    page = visit(running.url, "#symbols=SIM:BETA,SIM:ACME")
    page.wait_for_cell(ACME, "last", "10.00")
    running.publish(*(quote(n=n) for n in range(1, 4)))
    page.wait_for_cell(ACME, "bid", "3")
    page.wait_for_cell(ACME, "conflated", "2")
    for number, transport in enumerate(["sse", "fetch", "ws"], 1):
        page.use(transport)
        running.publish(traded(f"1{number}.00"))
        page.wait_until_connected(TRANSPORTS[transport])
        page.wait_for_cell(ACME, "last", f"1{number}.00")
        page.wait_for_cell(ACME, "change", f"+{number}.00")
        assert f"transport={transport}" in page.page.url
    page.wait_for_symbols(BETA, ACME)
    assert page.cell(ACME, "conflated") == "2"
    assert page.page.text_content("#total-gaps") == "0"
    streams = [request for request in page.requests if request.startswith("/v1/stream")]
    assert len(streams) == 2
    assert all("&cursor=" in request for request in streams)
    assert ['"cursor"' in sent for sent in page.sent] == [False, False, True, True]


@each_transport
def test_gap_is_counted_when_the_history_does_not_reach_back(
    start_broker: Start, visit: Open, transport: str
) -> None:
    running = start_broker(history=HistoryLimits(ticks=2))
    running.publish(trade(n=1))
    page = visit(running.url, f"#symbols=SIM:ACME&transport={transport}")
    page.wait_for_cell(ACME, "last", "1")
    running.publish(trade(n=2))
    page.wait_for_cell(ACME, "last", "2")
    page.page.context.set_offline(True)
    other = next(name for name in TRANSPORTS if name != transport)
    page.use(other)
    page.wait_for_text("#state-text", "Reconnecting")
    running.publish(*(trade(n=n) for n in range(3, 10)))
    page.page.context.set_offline(False)
    page.wait_for_cell(ACME, "last", "9")
    page.wait_for_cell(ACME, "gaps", "1")
    page.wait_for_text("#total-gaps", "1 (7 ticks)")


def test_page_that_was_frozen_catches_up(running: BrokerThread, visit: Open) -> None:
    page = visit(running.url)
    page.wait_until_connected()
    devtools = page.page.context.new_cdp_session(page.page)
    devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    for n in range(1, 200):
        running.publish(trade(n=n), quote(BETA, n))
    devtools.send("Page.setWebLifecycleState", {"state": "active"})
    page.wait_for_cell(ACME, "last", "199")
    page.wait_for_cell(BETA, "bid", "199")
    assert page.page.text_content("#total-gaps") == "0"


@each_transport
def test_ledger_of_the_broker_agrees_with_what_came(start_broker: Start, visit: Open, transport: str) -> None:
    running = start_broker(times=SessionTimes(heartbeat_s=0.2))
    page = visit(running.url, f"#transport={transport}")
    page.wait_until_connected()
    page.wait_for_symbols(*SYMBOLS)
    running.publish(*(quote(n=n) for n in range(5)), *(trade(n=n) for n in range(5)))
    page.wait_for_text("#ledger", "10 offered = 6 delivered + 4 conflated + 0 dropped + 0 pending")
    assert page.page.get_attribute("#ledger", "data-verdict") == "agrees"
    page.page.get_by_label(f"Remove {GAMMA}").focus()
    page.page.keyboard.press("Enter")
    page.wait_for_symbols(ACME, BETA)
    running.publish(trade(BETA, 1))
    page.wait_for_text("#ledger", "1 offered = 1 delivered + 0 conflated")
    assert page.page.get_attribute("#ledger", "data-verdict") == "agrees"


def test_pattern_takes_in_what_appears_later_and_goes_as_one(running: BrokerThread, visit: Open) -> None:
    page = visit(running.url, "#symbols=SIM:BETA,SIM:*")
    page.wait_until_connected()
    running.publish(trade(GAMMA), trade(ACME))
    page.wait_for_symbols(BETA, ACME, GAMMA)
    assert page.page.locator("#rows button:not([hidden])").count() == 1
    page.page.get_by_label("Remove SIM:*").click()
    page.wait_for_symbols(BETA)
    running.publish(trade(ACME, 2), trade(BETA, 2))
    page.wait_for_cell(BETA, "last", "2")
    page.wait_for_symbols(BETA)


def test_watchlist_is_remembered_in_the_address(running: BrokerThread, visit: Open) -> None:
    page = visit(running.url)
    page.wait_for_symbols(*SYMBOLS)
    page.page.locator(f'tr[data-symbol="{BETA}"]').hover()
    page.page.get_by_label(f"Remove {BETA}").click()
    page.wait_for_symbols(ACME, GAMMA)
    page.use("fetch")
    page.wait_until_connected("fetch")
    assert page.page.url.endswith("/#symbols=SIM:ACME,SIM:GAMMA&transport=fetch")
    page.page.reload()
    page.wait_until_connected("fetch")
    page.wait_for_symbols(ACME, GAMMA)
    page.add("beta")
    page.wait_for_symbols(ACME, GAMMA, BETA)
    page.add("beta")
    page.wait_for_text("#complaint", "SIM:BETA is there twice")
    page.page.evaluate("location.hash = 'symbols=sim:gamma&transport=sse'")
    page.wait_until_connected("SSE")
    page.wait_for_symbols(GAMMA)


def test_focus_stays_where_a_row_was_removed_by_key(running: BrokerThread, visit: Open) -> None:
    page = visit(running.url)
    page.wait_for_symbols(*SYMBOLS)
    page.page.get_by_label(f"Remove {BETA}").focus()
    page.page.keyboard.press("Enter")
    page.wait_for_symbols(ACME, GAMMA)
    assert page.page.evaluate("document.activeElement.ariaLabel") == f"Remove {GAMMA}"


def test_switch_may_be_flipped_faster_than_connections_open(running: BrokerThread, visit: Open) -> None:
    page = visit(running.url)
    page.wait_until_connected()
    page.page.evaluate(
        """() => { for (const name of ["sse", "ws", "fetch", "ws", "sse"])
             document.querySelector(`[name=transport][value=${name}]`).click(); }"""
    )
    page.wait_until_connected("SSE")
    running.publish(trade(n=3))
    page.wait_for_cell(ACME, "last", "3")
    page.page.wait_for_function(
        """async () => { const { sessions } = await (await fetch("/v1/stats")).json();
             return sessions.total === 1 && sessions.sse === 1; }"""
    )
    assert page.complaints == []


def test_without_a_choice_the_first_forty_symbols_are_shown(start_broker: Start, visit: Open) -> None:
    symbols = [f"SIM:S{number:02}" for number in range(45)]
    page = visit(start_broker(symbols=symbols).url)
    page.wait_for_symbols(*symbols[:40])
    page.add("S44")
    page.wait_for_symbols(*symbols[:40], symbols[44])


def test_line_for_a_terminal_shows_the_same(running: BrokerThread, visit: Open) -> None:
    running.publish(trade(n=5))
    page = visit(running.url, "#symbols=SIM:ACME,SIM:*")
    page.wait_until_connected()
    line = page.page.text_content("#curl") or ""
    address = line.removeprefix("curl -N '").removesuffix("'")
    assert address == f"{running.url}v1/stream?ch=quote,trade&symbols=SIM:ACME,SIM:*"
    with urlopen(address, timeout=30) as stream:
        lines = iter(stream.readline, b"")
        assert any(b'"type":"snapshot"' in line and b'"price":"5"' in line for line in lines)


def test_policy_of_the_page_allows_nothing_from_elsewhere(running: BrokerThread, visit: Open) -> None:
    with urlopen(running.url, timeout=30) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
    page = visit(running.url)
    page.wait_until_connected()
    page.page.evaluate("document.body.setAttribute('style', 'color: red')")
    page.page.wait_for_function("() => getComputedStyle(document.body).color !== 'rgb(255, 0, 0)'")
    # That was ours to provoke, and shows that the next one would be noticed.
    assert len(page.faults) == 1
    page.faults.clear()


@pytest.mark.parametrize("width", [360, 390, 800, 1000, 1280, 2000])
def test_nothing_hangs_over_the_edge(running: BrokerThread, visit: Open, width: int) -> None:
    page = visit(running.url, "#symbols=SIM:ACME,SIM:*,OTHER:*")
    page.page.set_viewport_size({"width": width, "height": 700})
    page.wait_until_connected()
    running.publish(*(traded("123456.78900000", sym) for sym in SYMBOLS))
    page.wait_for_cell(GAMMA, "last", "123456.78900000")
    assert page.page.evaluate("document.documentElement.scrollWidth") == width


def test_roles_of_the_table_survive_on_a_phone(running: BrokerThread, visit: Open) -> None:
    page = visit(running.url)
    page.page.set_viewport_size({"width": 390, "height": 700})
    page.wait_for_symbols(*SYMBOLS)
    table = page.page.get_by_role("table", name="Watchlist")
    assert table.get_by_role("row").count() == 4
    assert table.get_by_role("columnheader").count() == 11
    assert table.get_by_role("rowheader").all_text_contents() == list(SYMBOLS)
    assert page.page.get_by_role("status").text_content() is not None


# ── the modules by themselves ────────────────────────────────────────────────────────────────────


def test_sequence_accounts_for_every_tick(running: BrokerThread, visit: Open) -> None:
    seen = visit(running.url).run(
        """
        const { Sequence } = await import("/web/sequence.js");
        const begun = (tick) => { const s = new Sequence(false); s.tick(tick); return s; };
        const ahead = begun(1);
        const told = ahead.gap(4, 6);
        const resumed = begun(3);
        resumed.takenUp(true);
        const other = begun(3);
        other.takenUp(false);
        const behind = begun(3);
        return {
          first: new Sequence(false).tick(7), whole: new Sequence(true).tick(7),
          next: begun(7).tick(8), skipped: begun(7).tick(10), again: begun(7).tick(7),
          toldAhead: told, ofThem: ahead.tick(8), after: ahead.tick(9),
          completed: begun(3).gap(null, 5), known: begun(3).gap(1, 2), unknown: begun(3).gap(null, null),
          resumed: [resumed.snapshot(9), resumed.tick(4)], other: [other.snapshot(2), other.tick(3)],
          behind: [behind.gap(null, 8), behind.snapshot(8), behind.tick(9)],
        };
        """
    )
    assert seen == {
        "first": 0,
        "whole": 6,
        "next": 0,
        "skipped": 2,
        "again": -1,
        "toldAhead": 3,
        "ofThem": 3,
        "after": 0,
        "completed": 2,
        "known": 0,
        "unknown": None,
        "resumed": [False, 0],
        "other": [True, 0],
        "behind": [5, True, 0],
    }


def test_waits_double_up_to_a_bound_and_come_on_top_of_what_was_asked(
    running: BrokerThread, visit: Open
) -> None:
    waits = visit(running.url).run(
        """
        const { Backoff } = await import("/web/backoff.js");
        const most = new Backoff(() => 1);
        const waits = [0, 0, 0, 0, 0, 0, 0, 5000].map((least) => most.next(least));
        most.lasted(29_999);
        waits.push(most.next());
        most.lasted(30_000);
        return [...waits, most.next(), new Backoff(() => 0).next(70)];
        """
    )
    assert waits == [200, 400, 800, 1600, 3200, 6400, 10_000, 15_000, 10_000, 200, 70]


def test_numbers_are_written_as_people_read_them(running: BrokerThread, visit: Open) -> None:
    texts = visit(running.url).run(
        """
        const f = await import("/web/format.js");
        return {
          ages: [-5000, -3, 0, 999.4, 1234, 61_000, 7_200_000, 172_800_000, 63_115_200_000].map(f.age),
          zeros: ["61837.63000000", "10.50", "10.500", "7", "0.00000100", "-1.2500"].map(f.splitZeros),
          signed: [f.signed(1.5, 2), f.signed(-0.5, 1), f.signed(-0.001, 2), f.signed(0, 0)],
          decimals: ["1", "1.50", "0.00001", "1e-7", "2.5E3"].map(f.decimalsOf),
          rates: [0, 9.96, 99.96, 12345.6].map(f.rate),
          millis: f.millisOf("1751292187250000001"),
        };
        """
    )
    assert texts == {
        "ages": ["–", "0 ms", "0 ms", "999 ms", "1.2 s", "1 min", "2 h", "2 d", "2.0 y"],
        "zeros": [
            ["61837.63", "000000"],
            ["10.50", ""],
            ["10.500", ""],
            ["7", ""],
            ["0.000001", "00"],
            ["-1.25", "00"],
        ],
        "signed": ["+1.50", "−0.5", "0.00", "0"],
        "decimals": [0, 1, 5, 7, 0],
        "rates": ["0.0", "10.0", "100", "12,346"],
        "millis": 1751292187250,
    }
