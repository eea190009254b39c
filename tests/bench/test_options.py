"""From the command line to what is run."""

from __future__ import annotations

from typing import Any

import pytest

from bench.options import Options, UsageError, settings_of
from bench.peers import PEERS
from bench.run import Settings
from bench.workloads import WORKLOADS


def settings(**options: Any) -> Settings:
    return settings_of(Options(**options), command=["bench"], on_progress=lambda text: None)


def names(**options: Any) -> list[str]:
    return [target.name for target in settings(**options).targets]


def test_without_options_it_is_w2_and_takes_about_ten_seconds() -> None:
    chosen = settings()
    assert chosen.workload is not None
    assert chosen.workload.name == "W2"
    assert chosen.rounds == 1
    assert chosen.workload.duration_s + chosen.workload.warmup_s <= 8


@pytest.mark.parametrize("name", [*WORKLOADS, "w3", "SOAK"])
def test_every_workload_can_be_chosen_in_any_case(name: str) -> None:
    assert settings(workload=name).workload.name.lower() == name.lower()


def test_transports_codecs_and_tls_are_measured_side_by_side() -> None:
    assert names(transports=["ws", "sse"], codecs=["json", "msgpack"], is_tls=True) == [
        "tapecast", "tapecast-msgpack", "tapecast-sse",
        "tapecast+tls", "tapecast-msgpack+tls", "tapecast-sse+tls",
    ]  # fmt: skip
    assert settings(transports=["ws", "sse"]).rounds == 2


def test_several_rates_are_a_sweep_of_every_server() -> None:
    assert names(rates=["1000"]) == ["tapecast"]
    assert settings(rates=["1000"]).workload.ticks_per_second == 1000
    assert names(rates=["1000", "2000"], peers=["plain"]) == [
        "tapecast@1000", "tapecast@2000", "plain@1000", "plain@2000",
    ]  # fmt: skip


def test_a_peer_that_is_not_there_is_missing_and_not_beaten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bench.peers.nats.find", lambda program: None)
    chosen = settings(workload="W4", peers=["nats", "plain"])
    assert [target.name for target in chosen.targets] == ["tapecast", "plain"]
    assert [missing.name for missing in chosen.missing] == ["nats"]
    assert "apt install nats-server" in chosen.missing[0].reason


@pytest.mark.parametrize(
    ("workload", "peer"), [("W1", "nats"), ("W6", "nats"), ("W8", "plain"), ("W2", "nchan")]
)
def test_a_peer_that_a_workload_says_nothing_about_is_not_run_and_it_says_why(
    workload: str, peer: str
) -> None:
    chosen = settings(workload=workload, peers=[peer])
    assert [target.name for target in chosen.targets] == ["tapecast"]
    assert len(chosen.missing[0].reason) > 20


def test_subscribers_of_a_mixed_workload_keep_their_proportions() -> None:
    groups = settings(workload="W8", subscribers=76).workload.groups
    assert sum(group.subscribers for group in groups) == 76
    assert [group.subscribers for group in groups] == [25, 10, 10, 5, 10, 5, 5, 5, 1]
    assert sum(group.subscribers for group in settings(workload="W8", subscribers=3).workload.groups) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workload": "W9"}, "--workload: 'W9' is not one of W1"),
        ({"duration": "soon"}, "--duration: 'soon' is not a time like"),
        ({"duration": "-1s"}, "--duration"),
        ({"duration": "0"}, "--duration: 0 is not from 0.1"),
        ({"subscribers": 0}, "--subscribers: 0"),
        ({"symbols": 10, "symbols_each": 20}, "--symbols-each: 20 is more than there are symbols"),
        ({"rates": ["fast"]}, "--rate: 'fast'"),
        ({"rates": ["200000"]}, "--rate: '200000'"),
        ({"mode": "latest", "queue": 5}, "--queue: goes with --mode every"),
        ({"max_rate": 5}, "--max-rate: goes with --mode latest"),
        ({"mode": "latest", "max_rate": 0.01}, "--max-rate: 0.01 is not from 0.1 to 1000"),
        ({"stalled": 1.5}, "--stalled: 1.5"),
        ({"transports": ["tcp"]}, "--transport: 'tcp' is not one of ws, sse, ndjson"),
        ({"transports": ["sse"], "codecs": ["msgpack"]}, "msgpack goes with --transport ws"),
        ({"workload": "W8", "transports": ["ws"]}, "W8 is the mix"),
        ({"workload": "W6", "transports": ["sse"]}, "W6 is for ws and json"),
        ({"peers": ["nat"]}, "did you mean nats"),
        ({"url": "localhost:8765"}, "--url: 'localhost:8765' is not like"),
        ({"url": "http://localhost:8765", "rates": ["5"]}, "--rate: goes with a broker of our own"),
        ({"url": "http://localhost:8765", "is_tls": True}, "say https"),
        ({"pid": 1}, "--pid: goes with --url"),
        ({"rounds": 0}, "--rounds: 0"),
        ({"clients": 0}, "--clients: 0"),
        ({"seed": -1}, "--seed: -1"),
        ({"thresholds": ["p99"]}, "--threshold: 'p99' is not like"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(**options)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["90", "90s", "1.5m", "90000ms", "0.025h"])
def test_times_have_units(text: str) -> None:
    assert settings(duration=text).workload.duration_s == pytest.approx(90)


def test_peers_are_known_by_their_own_names() -> None:
    assert all(peer.name == name for name, peer in PEERS.items())
    assert set(PEERS) == {"nats", "nchan", "centrifugo", "websockets", "socketify", "plain"}
