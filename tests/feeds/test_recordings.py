"""Recordings: lines of each recorder, files that are cut off, and several files at once."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds import recordings
from feeds.recording_formats import Origin, origin_of_file
from feeds.recordings import Record, find_files, parse_line, read_file, read_merged
from tests.feeds.fakes import recording

NS = 1_723_161_253_937_085_768


@pytest.mark.parametrize(
    ("line", "kind", "at", "payload", "url"),
    [
        (b"1723161253937085768 {}", "frame", NS, b"{}", ""),
        (b"1633998512.0633569: [1]", "frame", 1_633_998_512_063_356_900, b"[1]", ""),
        (b"1633998512: {}", "frame", 1_633_998_512_000_000_000, b"{}", ""),
        (b"https://x/y?z=1 -> 1633998512.5: {}", "body", 1_633_998_512_500_000_000, b"{}", "https://x/y?z=1"),
        (b"wss://x <-> 1633998512.5", "opened", 1_633_998_512_500_000_000, b"", "wss://x"),
        (b'wss://x <- 1633998512.5: {"op":1}', "other", 1_633_998_512_500_000_000, b"", "wss://x"),
        (b'configuration: {"a":1}', "other", 7, b"", ""),
        (b"", "other", 7, b"", ""),
        (b'{"type":"update"}', "message", 7, b'{"type":"update"}', ""),
        (b"garbage", "broken", 7, b"no line of a known recorder, and no object of JSON", ""),
        (b"\xff\xfe\x00", "broken", 7, b"no line of a known recorder, and no object of JSON", ""),
        (b"9999999999999999999 {}", "broken", 7, b"a time after the year 2262", ""),
    ],
)
def test_line_is_told_by_its_beginning(line: bytes, kind: str, at: int, payload: bytes, url: str) -> None:
    assert parse_line(line, 7, 2, 3) == Record(kind, at, payload, url, 2, 3)  # type: ignore[arg-type]


@given(st.binary(max_size=200))
def test_any_line_is_something_at_a_time_that_fits(line: bytes) -> None:
    record = parse_line(line, 5, 0, 1)
    assert 0 <= record.at < 2**63


def test_mark_of_byte_order_ahead_of_the_first_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ticks.ndjson"
    line = b'{"ch":"trade","sym":"X:A","ts":"1767225600000000000"}'
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n" + line)
    assert [(each.kind, each.payload) for each in read_file(path)] == [("message", line), ("message", line)]


def test_gzip_is_recognised_by_its_content_and_the_last_line_needs_no_end(tmp_path: Path) -> None:
    for name, content in (
        ("plain.gz", b"1 \n1633998512: a"),
        ("packed", gzip.compress(b"1 \n1633998512: a")),
    ):
        (tmp_path / name).write_bytes(content)
        records = list(read_file(tmp_path / name))
        assert [(record.kind, record.payload, record.line) for record in records] == [
            ("broken", b"no line of a known recorder, and no object of JSON", 1),
            ("frame", b"a", 2),
        ]


def test_gzip_that_is_cut_off_gives_what_is_there_and_then_one_broken_line(tmp_path: Path) -> None:
    lines = b"".join(b"%d frame %d\n" % (NS + number, number * 7919) for number in range(5000))
    packed = gzip.compress(lines)
    (tmp_path / "cut").write_bytes(packed[: len(packed) // 2])
    kinds = [record.kind for record in read_file(tmp_path / "cut")]
    assert 1000 < len(kinds) < 5000
    assert kinds == ["frame"] * (len(kinds) - 1) + ["broken"]


def test_gzip_with_a_damaged_middle_ends_with_one_broken_line(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"".join(b"%d frame %d\n" % (NS + n, n * 7919) for n in range(50_000))))
    packed[len(packed) // 2 : len(packed) // 2 + 8] = b"\xff" * 8
    (tmp_path / "bad").write_bytes(packed)
    kinds = [record.kind for record in read_file(tmp_path / "bad")]
    assert kinds.count("broken") >= 1
    assert kinds[-1] == "broken"


def test_line_that_is_too_long_is_skipped_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "MAX_LINE", 64)
    (tmp_path / "long").write_bytes(b"1633998512: " + b"x" * 1000 + b"\n1633998513: y\n")
    assert [(record.kind, record.line) for record in read_file(tmp_path / "long")] == [
        ("broken", 1),
        ("frame", 2),
    ]


def test_files_are_merged_by_time_and_stay_in_their_own_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1633998512: 1\n1633998514: 3\nnoise\n1633998516: 5\n")
    (tmp_path / "b").write_bytes(b"1633998513: 2\n1633998515: 4\n")
    with read_merged(find_files(str(tmp_path))) as records:
        merged = [(record.payload[:2], record.source) for record in records]
    assert merged == [(b"1", 0), (b"2", 1), (b"3", 0), (b"no", 0), (b"4", 1), (b"5", 0)]


def test_path_may_be_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("b.gz", "a.gz", ".hidden", "inner/c.gz"):
        (tmp_path / name).write_bytes(b"")
    names = [
        [each.name for each in find_files(str(tmp_path / path))]
        for path in ("a.gz", "", "*.gz", "**/c.gz", "d")
    ]
    assert names == [["a.gz"], ["a.gz", "b.gz"], ["a.gz", "b.gz"], ["c.gz"], []]


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("coinbase-exchange-2021-04-17/COINBASE.0.gz", Origin("coinbase", "COINBASE")),
        ("coinbase-exchange-2021-04-17/COINBASE.ws.28.0.five-products.gz", Origin("coinbase", "COINBASE")),
        ("binance-spot/ethusdt-2024-08-08.frames.gz", Origin("binance", "BINANCE")),
        ("binance-spot-2021-10-12/BINANCE.http.0.0.gz", Origin("binance", "BINANCE")),
        ("binance-usdm/btcusdt-2024-08-08.first20000.frames.gz", Origin("binance", "BINANCE_USDM")),
        ("kraken-v1-2021-04-17/KRAKEN.0.gz", Origin("kraken", "KRAKEN")),
        ("kraken-v1-2021-04-17/KRAKEN.ws.48.0.gz", Origin("kraken", "KRAKEN")),
        ("gemini-2021-06-24/GEMINI.ws.1.0.gz", Origin("gemini", "GEMINI")),
        ("bitstamp-2022-01-05/BITSTAMP.ws.1.0.gz", Origin("bitstamp", "BITSTAMP")),
        ("gemini-2021-06-24/GEMINI.0.gz", Origin("gemini", "GEMINI")),
        ("bitstamp-2022-01-05/BITSTAMP.http.0.0.gz", Origin("bitstamp", "BITSTAMP")),
        ("hyperliquid/btcusd-2025-01-26.frames.gz", None),
    ],
)
def test_recording_shows_whose_it_is(name: str, origin: Origin | None) -> None:
    assert origin_of_file(recording(name)) == origin


@pytest.mark.parametrize(
    ("frame", "origin"),
    [
        (
            b'{"data":{"timestamp":"1","microtimestamp":"1000000","bids":[%s],"asks":[]},'
            b'"channel":"diff_order_book_btcusd","event":"data"}' % b",".join([b'["1.00","2.00"]'] * 1000),
            Origin("bitstamp", "BITSTAMP"),
        ),
        (b'{"type":"l2_updates","symbol":"BTCUSD","changes":[]}', Origin("gemini", "GEMINI")),
        (
            b'{"type":"trade","symbol":"BTCUSD","event_id":1,"timestamp":2,"price":"1","quantity":"1","side":"buy"}',
            Origin("gemini", "GEMINI"),
        ),
        (
            b'{"channel":"l2_data","client_id":"","timestamp":"2026-01-01T00:00:00Z","sequence_num":1,"events":'
            b'[{"type":"snapshot","product_id":"BTC-USD","updates":[]}]}',
            Origin("coinbase_advanced", "COINBASE"),
        ),
        (b'{"type":"heartbeat","timestamp":1624493666869}', None),
    ],
)
def test_frame_alone_shows_whose_it_is(tmp_path: Path, frame: bytes, origin: Origin | None) -> None:
    (tmp_path / "file").write_bytes(b"%d %s\n" % (NS, frame))
    assert origin_of_file(tmp_path / "file") == origin


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("wss://advanced-trade-ws.coinbase.com", Origin("coinbase_advanced", "COINBASE")),
        ("wss://ws-feed.exchange.coinbase.com", Origin("coinbase", "COINBASE")),
        ("wss://api.gemini.com/v2/marketdata", Origin("gemini", "GEMINI")),
        ("wss://ws.bitstamp.net", Origin("bitstamp", "BITSTAMP")),
    ],
)
def test_url_alone_shows_whose_it_is(tmp_path: Path, url: str, origin: Origin) -> None:
    (tmp_path / "file").write_text(f"{url} <-> 1633998512.5\n")
    assert origin_of_file(tmp_path / "file") == origin
