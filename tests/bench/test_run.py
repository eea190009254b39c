"""Whole runs: real processes on loopback, tiny ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.options import Options, settings_of
from bench.results import Run, Subject
from bench.run import run
from bench.servers import Server, run_broker
from bench.workloads import WORKLOADS
from broker.cli.main import main
from tests.bench.liar import Lie, double_a_tick, hide_a_drop, lose_a_tick, open_liar, swap_a_tick

#: As much of a workload as says whether it works.
TINY: dict[str, Any] = {"duration": "300ms", "warmup": "100ms", "rounds": 1}


async def measure(**options: Any) -> Run:
    settings = settings_of(Options(**TINY | options), command=["bench"], on_progress=lambda text: None)
    return await run(settings)


async def measured(**options: Any) -> Subject:
    """Return the only server of a run that is accounted for."""
    result = await measure(**options)
    (subject,) = result.subjects
    assert subject.problems == []
    assert result.is_accounted
    return subject


async def test_stalled_readers_are_told_from_the_others_and_all_accounts_are_exact() -> None:
    subject = await measured(
        workload="W5", subscribers=20, symbols=20, symbols_each=5, rates=["2000"], ages="every"
    )
    assert subject.accounts.exact == 20
    assert subject.accounts.offered > 0
    figures = subject.figures
    assert figures["deliveries_per_s"] > 0
    assert 0 < figures["age_p50"] <= figures["age_p99"] <= figures["age_max"]
    assert figures["memory_per_session_kib"] > 0
    assert subject.series


async def test_a_storm_is_resumed_without_a_gap() -> None:
    subject = await measured(workload="W6", subscribers=40, symbols=4, rates=["200"])
    assert subject.accounts.exact == 40
    assert subject.figures["refused"] == 0
    assert subject.figures["resume_s"] > 0


async def test_idle_sessions_get_nothing_and_cost_memory() -> None:
    subject = await measured(workload="W7", subscribers=50)
    assert subject.figures["deliveries_per_s"] == 0
    assert subject.figures["memory_per_session_kib"] > 0
    assert "age_p99" not in subject.figures


async def test_all_transports_codecs_and_modes_together_add_up() -> None:
    # So few symbols that some tick comes twice between two writes.
    subject = await measured(
        workload="W8", subscribers=38, symbols=3, rates=["2000"], clients=2, is_tls=False
    )
    assert subject.accounts.exact == 38
    assert subject.accounts.conflated > 0


async def test_tls_is_measured_beside_plain() -> None:
    result = await measure(workload="W4", subscribers=4, rates=["500"], is_tls=True)
    assert [subject.name for subject in result.subjects] == ["tapecast", "tapecast+tls"]
    assert [subject.accounts.exact for subject in result.subjects] == [4, 4]


async def test_a_peer_gets_the_same_ticks_in_the_same_run() -> None:
    result = await measure(workload="W4", subscribers=6, rates=["1000"], peers=["plain", "websockets"])
    tapecast, *peers = result.subjects
    assert tapecast.accounts.exact == 6
    for peer in peers:
        assert peer.kind == "peer"
        assert peer.accounts.exact == 6
        assert peer.accounts.offered == peer.accounts.delivered > 0
        assert peer.figures["mb_per_s"] == pytest.approx(tapecast.figures["mb_per_s"], rel=0.6)


def broker(folder: Path) -> Any:
    workload = replace(WORKLOADS["W4"], ticks_per_second=2000.0)
    return run_broker(workload, folder, seed=1, certificate=None)


@pytest.mark.parametrize("lie", [lose_a_tick, double_a_tick, swap_a_tick, hide_a_drop])
async def test_a_broker_that_lies_fails_the_run(tmp_path: Path, lie: Lie) -> None:
    server: Server
    async with broker(tmp_path) as server, open_liar(server.host, server.port, lie) as port:
        result = await measure(workload="W4", subscribers=3, url=f"http://127.0.0.1:{port}", pid=server.pid)
        (subject,) = result.subjects
        assert subject.kind == "url"
        assert not result.is_accounted
        assert subject.accounts.wrong == 3
        assert "accounts do not agree" in subject.problems[0]


async def test_a_broker_anywhere_is_measured_by_its_url(tmp_path: Path) -> None:
    server: Server
    async with broker(tmp_path) as server:
        url = f"http://{server.host}:{server.port}"
        subject = await measured(workload="W4", subscribers=3, url=url, transports=["ws"])
        assert subject.accounts.exact == 3
        assert "cpu_cores" not in subject.figures


def test_a_missed_threshold_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run.json"
    command = ["bench", "--workload", "W4", "--subscribers", "2", "--duration", "200ms", "--warmup", "0"]
    assert main([*command, "--threshold", "p50<0ms", "--threshold", "p50>=0", "--out", str(out)]) == 3
    shown = capsys.readouterr().out
    assert "MISSED p50<0ms" in shown
    assert "met    p50>=0" in shown
    assert "2 accounts exact to the tick" in shown
    assert out.with_suffix(".html").exists()
    assert main(["bench", "compare", str(out), str(out)]) == 0
    assert "tapecast" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--workload", "W9"], 2, "is not one of W1"),
        (["--out", "/nowhere/run.json"], 2, "there is no folder '/nowhere'"),
        (["compare", "/nowhere/a.json", "/nowhere/b.json"], 1, "No such file"),
        (["micro", "--seconds", "0"], 2, "is not above 0"),
        (["--url", "http://127.0.0.1:1"], 1, "no broker answers"),
    ],
)
def test_a_mistake_is_one_message_and_an_exit_code(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == code
    assert said in capsys.readouterr().err
