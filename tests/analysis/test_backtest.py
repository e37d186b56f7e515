"""Recorded traffic under other configurations, and under its own."""

from __future__ import annotations

import gc
import json
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from aoai_gateway.analysis.backtest import backtest, text
from aoai_gateway.analysis.recorded import Recording, Speed, recording_of
from aoai_gateway.analysis.records import seconds, uncollected
from aoai_gateway.analysis.virtual import VirtualGateway
from aoai_gateway.config.models import Client, Config
from aoai_gateway.usage.record import usage_record
from aoai_simulator.limits import PaygLimits, PtuLimits
from tests.analysis.day import day
from tests.engine.scenarios.azure import Deployment
from tests.engine.scenarios.traffic import Traffic
from tests.engine_driver import config
from tests.usage.records import attempt, record

PTU, PAYG = "ptu@sweden", "payg@france"
PTU_TOKENS, PAYG_TOKENS = 60_000, 40_000


def pools(**parts: Any) -> Config:
    return config(
        (PTU, {"provisioned": True, "tokens_per_minute": PTU_TOKENS}),
        (PAYG, {"tokens_per_minute": PAYG_TOKENS, "requests_per_minute": 240}),
        **parts,
    )


def clients(**limited: Any) -> tuple[Client, ...]:
    shop = Client(name="Shop", key="key-of-shop-1234", priority="critical")
    batch = Client(name="Batch", key="key-of-batch-123", priority="batch", **limited)
    return (shop, batch)


def recorded_traffic(configuration: Config, *, minutes: float = 6, seed: int = 3) -> list[dict[str, Any]]:
    """Traffic as the engine's own scenarios have it: other code than the backtest's, and other backends."""
    deployments = {
        PTU: Deployment(PtuLimits(PTU_TOKENS), first_token=0.3, speed=120),
        PAYG: Deployment(PaygLimits(PAYG_TOKENS, 240), first_token=0.5, speed=80),
    }
    traffic, dice = Traffic(configuration, deployments, seed), Random(seed)
    for client, rate, prompt, most in (("Shop", 0.9, 600, 300), ("Batch", 0.6, 1500, 500)):
        at = 0.0
        while (at := at + dice.expovariate(rate)) < 60 * minutes:
            completion = max(20, round(most * dice.random()))
            stream = dice.random() < 0.5
            traffic.come(at, client, prompt=prompt, most=most, completion=completion, stream=stream)
    traffic.run()
    return [usage_record(caller.call) for caller in traffic.callers]


def recording(records: list[dict[str, Any]], **options: Any) -> Recording:
    return recording_of(((seconds(each["time"]), each) for each in records), **options)


@pytest.mark.parametrize("seed", range(3))
def test_traffic_under_its_own_policy_ends_as_it_did(seed: int) -> None:
    own = pools(clients=clients(max_tokens_per_minute=30_000))
    records = recorded_traffic(own, seed=seed)
    (made,) = backtest(recording(records), {"own": own})["candidates"]
    ends = Counter(each["error"] or "served" for each in records)
    assert len(ends) > 1, "some of it is refused"
    assert ends["served"] > 200
    assert made["same"] >= 0.98, (made["totals"], ends)


def test_a_candidate_that_limits_a_client_tells_so() -> None:
    own = pools(clients=clients())
    taken = recording(recorded_traffic(own))
    strict = pools(clients=clients(max_tokens_per_minute=10_000))
    found = backtest(taken, {"own": own, "strict": strict})
    same, less = found["candidates"]
    assert same["loses"] == {}
    assert set(less["loses"]) == {"Batch"}
    assert less["clients"]["Batch"]["refused"]["quota_exceeded"] > 50
    assert less["totals"]["calls"] == found["recorded"]["totals"]["calls"] == found["calls"]


def test_capacity_that_is_taken_away_is_missed() -> None:
    own = pools(clients=clients())
    taken = recording(recorded_traffic(own))
    alone = config((PAYG, {"tokens_per_minute": 10_000, "requests_per_minute": 60}), clients=clients())
    (made,) = backtest(taken, {"alone": alone})["candidates"]
    assert set(made["totals"]["backends"]) == {PAYG}
    assert made["totals"]["served"] < taken_served(taken)


def taken_served(taken: Recording) -> int:
    return sum(call.decision.end == "served" for call in taken.calls)


def test_the_same_seed_gives_the_same_result() -> None:
    own = pools(clients=clients(max_tokens_per_minute=30_000))
    taken = recording(recorded_traffic(own, minutes=2))
    assert backtest(taken, {"a": own}) == backtest(taken, {"a": own})


def test_calls_leave_no_circular_garbage() -> None:
    """So the collector can be off, however many there are."""
    own = pools(clients=clients(max_tokens_per_minute=30_000))
    taken = recording(recorded_traffic(own, minutes=3))
    gateway = VirtualGateway(own, taken)
    gc.collect()
    with uncollected():
        assert not gc.isenabled()
        outcomes = gateway.run()
        assert len(outcomes) > 100
        assert gc.collect() < len(outcomes) / 10
    assert gc.isenabled()


# --- what is taken from records ----------------------------------------------------------------------------


def test_speeds_come_from_the_records() -> None:
    fast = attempt("fast@a", answered_ms=200.0, duration_ms=1200.0)
    slow = attempt("slow@b", answered_ms=900.0, duration_ms=10_900.0)
    each = [record(streaming=True, output_tokens=100, attempts=[a]) for a in (fast, slow)]
    taken = recording(each)
    assert taken.speeds == {"fast@a": Speed(0.2, 100.0), "slow@b": Speed(0.9, 10.0)}
    assert taken.speed("never seen") == Speed(0.55, 55.0)


def test_the_limit_of_a_backend_that_refused_is_what_it_served() -> None:
    refused = attempt("a@a", status=429, failure="status", reason="429")
    minute = [record(attempts=[attempt("a@a")], input_tokens=400, output_tokens=100) for _ in range(3)]
    later = record(time="2026-11-28T10:01:00.000Z", attempts=[refused, attempt("b@b")])
    assert recording([*minute, later]).observed_limits == {"a@a": 1500}


def test_a_refused_call_is_taken_for_a_mean_one() -> None:
    shop = [call for call in recording(day()).calls if call.client == "Shop"]
    refused = [call for call in shop if call.decision.end == "quota_exceeded"]
    assert [(call.prompt, call.completion) for call in refused] == [(1000, 200)] * 4


def test_what_is_no_call_and_retries_are_left_out() -> None:
    assert recording(day()).left_out == 1
    assert recording(day(), retries=False).left_out == 2


def test_a_fault_that_was_recorded_happens_again() -> None:
    failed = attempt("ptu@sweden", status=503, failure="status", reason="503", duration_ms=100.0)
    call = record(client="Shop", deployment="gpt", attempts=[failed, attempt("payg@france")])
    (made,) = backtest(recording([call]), {"own": pools(clients=clients())})["candidates"]
    assert made["totals"]["backends"] == {"payg@france": 1}
    assert made["totals"]["spilled"] == 1


def test_a_client_that_the_candidate_does_not_have_is_said() -> None:
    call = record(client="Gone", deployment="gpt")
    found = backtest(recording([call]), {"own": pools(clients=clients())})
    assert found["candidates"][0]["unknown_clients"] == 1
    assert "own does not have the client of 1 call." in text(found, 80)


def test_an_empty_recording_is_none() -> None:
    found = backtest(Recording(), {"own": pools(clients=clients())})
    assert (found["calls"], found["candidates"][0]["same"]) == (0, None)


def test_a_small_cost_is_not_none() -> None:
    own = pools(clients=clients())
    found = backtest(recording(recorded_traffic(own, minutes=1)), {"own": own})
    found["recorded"]["totals"]["cost"] = 0.0015
    (line,) = [each for each in text(found, 80).splitlines() if each.startswith("recorded ")]
    assert line.endswith(" <0.01")


def test_the_result_fits_a_terminal_and_is_json(tmp_path: Path) -> None:
    own = pools(clients=clients())
    taken = recording(recorded_traffic(own, minutes=1))
    long = "candidates/" + "x" * 60 + ".yaml"
    found = backtest(taken, {long: pools(clients=clients(max_tokens_per_minute=5_000)), "own": own})
    said = text(found, 80)
    assert max(map(len, said.splitlines())) <= 80
    assert "quota_exceeded" in said
    assert json.loads(json.dumps(found)) == found


def test_of_many_clients_those_are_shown_of_which_most_changes() -> None:
    crowd = [f"client {number:03}" for number in range(120)]
    records = [record(client=name, deployment="gpt") for name in crowd for _ in range(2)]
    everyone = tuple(Client(name=name, key=f"key-of-{name[-3:]}") for name in crowd)
    own, without = pools(clients=everyone), pools(clients=everyone[:77] + everyone[78:])
    found = backtest(recording(records), {"own": own, "less": without})
    lines = text(found, 80).splitlines()
    table = lines[lines.index("Served, and the difference to what was recorded") + 1 :]
    assert len([line for line in table if line.startswith("client 0")]) == 50
    assert re.search(r"^client 077 +2 +2 +2 +0 \(-2\)$", "\n".join(table), re.MULTILINE)
    assert re.search(r"^70 more +140 +140 +140 +140$", "\n".join(table), re.MULTILINE)
    assert "Refused, less: 2 × unknown client" in lines
