"""What clients are told by every policy: status, code, headers, and what the backend gets to see."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e import json_lines
from tests.e2e.processes import Answer, Gateway, Simulator
from tests.e2e.settings import SPEC, configuration
from tests.e2e.shared import Pair, running

CHAT = "/openai/v1/chat/completions"
COMPLETIONS = "/openai/v1/completions"
EMBEDDINGS = "/openai/v1/embeddings"
RESPONSES = "/openai/v1/responses"
OLD = "/openai/deployments/gpt-4o/chat/completions?api-version=2023-05-15"
"""An api-version that knows neither max_completion_tokens nor stream_options."""

MESSAGES = [{"role": "user", "content": "say: hello there"}]
HELLO = {"model": "gpt-4o", "messages": MESSAGES}

INSTRUCT = {"model": "gpt-35-turbo-instruct", "first_token_seconds": 0, "tokens_per_second": 0}
ENDPOINTS = {
    "sweden": {**SPEC["sweden"], "deployments": {**SPEC["sweden"]["deployments"], "instruct": INSTRUCT}},
    "france": SPEC["france"],
}
POOLS = {
    "sweden": {
        "gpt-4o": ["gpt-4o-paygo"],
        "gpt-4o-mini": ["gpt-4o-mini"],
        "text-embedding-3-small": ["embed"],
        "instruct": ["instruct"],
    },
    "france": {"gpt-4o": ["gpt-4o-france"], "text-embedding-3-small": ["embed"]},
}

CEILINGS = {"max_tokens": 100, "n": 2, "best_of": 3, "prompt_tokens": 50}
CLIENTS: dict[str, dict[str, Any]] = {
    "chosen": {"deployments_allowed": ["gpt-4o-*", "text-embedding-3-small"]},
    "french": {"endpoints_allowed": ["france"]},
    "listed": {"max_tokens_per_minute_in_k": {"gpt-4o": 5}},
    "strict": {"request_limits": {**CEILINGS, "action": "reject"}},
    "clamped": {"request_limits": {**CEILINGS, "action": "clamp"}},
    "given": {"request_limits": {"max_tokens": {"ceiling": 100, "default": 30}, "action": "clamp"}},
    "short": {"request_limits": {"max_tokens": {"default": 30}}},
    "one-request": {"max_requests_per_minute": 1},
    "few-tokens": {"max_tokens_per_minute": 200},
    "small": {"max_tokens_per_minute": 200},
    "stopped": {"max_tokens_per_minute": {"gpt-4o": 0, "total": 1000}},
    "daily": {"max_tokens_per_day": 120},
    "monthly": {"max_tokens_per_month": {"gpt-4o": 120}},
    "patient": {"max_requests_per_minute": 1, "when_exceeded": {"action": "wait", "seconds": 0.5}},
    "brief": {
        "max_tokens_per_minute": 200,
        "when_exceeded": {"action": "degrade", "deployment": "gpt-4o-mini", "max_tokens": 40},
    },
    "lower": {
        "max_requests_per_minute": 1,
        "when_exceeded": {"action": "degrade", "max_tokens": 40, "priority": "batch"},
    },
    "cornered": {
        "endpoints_allowed": ["france"],
        "max_requests_per_minute": 1,
        "when_exceeded": {"action": "degrade", "deployment": "gpt-4o-mini"},
    },
    "observed": {
        "max_requests_per_minute": 1,
        "request_limits": {**CEILINGS, "action": "clamp"},
        "dry_run": True,
    },
    "observed-strictly": {
        "deployments_allowed": ["gpt-4o*"],
        "max_tokens_per_minute": {"gpt-4o": 1000},
        "request_limits": {**CEILINGS, "action": "reject"},
        "dry_run": True,
    },
}


def key_of(name: str) -> str:
    return f"key-of-{name}-77ac"


class Stage(NamedTuple):
    """The gateway, the simulator, and the usage log."""

    gateway: Gateway
    simulator: Simulator
    usage_path: Path

    def ask(
        self, client: str, path: str = CHAT, *, headers: dict[str, str] | None = None, **body: Any
    ) -> Answer:
        """Send a call as that client; what is left out of the body is HELLO's."""
        if path == CHAT:
            body = HELLO | body
        return self.gateway.request("POST", path, key=key_of(client), headers=headers, json_body=body)

    def record(self, answer: Answer) -> dict[str, Any]:
        """Find the usage record of a call."""
        return json_lines.record_of(self.usage_path, answer)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[tuple[Pair, Path]]:
    folder = tmp_path_factory.mktemp("policies")
    usage = folder / "usage.jsonl"
    clients = [{"name": name, "key": key_of(name), **policy} for name, policy in CLIENTS.items()]
    with running(
        "serve",
        folder,
        home,
        spec=ENDPOINTS,
        pools=POOLS,
        clients=clients,
        usage_log=str(usage),
        breaks={"ceiling_seconds": 1},
        # Of its own, since one of the clients names it: in the built-in ones calls wait.
        priorities=[{"name": "batch"}],
    ) as pair:
        yield pair, usage


@pytest.fixture
def stage(pair: tuple[Pair, Path]) -> Stage:
    """The module's processes, with the simulator as after its start. Quotas stay used up."""
    (gateway, simulator), usage = pair
    simulator.reset()
    return Stage(gateway, simulator, usage)


def refusal(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check that an answer is an error of the gateway's, in Azure OpenAI's shape; returns the error."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message", "type", "param"}
    assert document["error"]["code"] == code
    assert "x-gateway-backend" not in answer.headers
    return document["error"]  # type: ignore[no-any-return]


def received(stage: Stage) -> dict[str, Any]:
    """Return the one request that the simulator got."""
    (entry,) = stage.simulator.requests()
    return entry  # type: ignore[no-any-return]


def assert_received(stage: Stage, body: str) -> None:
    """Check the very bytes that the backend got."""
    assert received(stage)["body_sha256"] == hashlib.sha256(body.encode()).hexdigest()


# --- access ------------------------------------------------------------------------------------------


def test_an_unknown_deployment_is_404_and_names_what_the_client_may_use(stage: Stage) -> None:
    error = refusal(stage.ask("chosen", model="gpt-9"), 404, "DeploymentNotFound")
    assert "gpt-4o-mini" in error["message"]
    assert "instruct" not in error["message"]
    assert stage.simulator.requests() == []


def test_a_deployment_that_is_not_allowed_is_403_and_names_what_is(stage: Stage) -> None:
    error = refusal(stage.ask("chosen", model="gpt-4o"), 403, "DeploymentNotAllowed")
    assert "gpt-4o-*" in error["message"]
    assert "text-embedding-3-small" in error["message"]
    assert stage.simulator.requests() == []


def test_a_pattern_allows(stage: Stage) -> None:
    assert stage.ask("chosen", model="gpt-4o-mini").status == 200


def test_only_allowed_endpoints_serve(stage: Stage) -> None:
    assert stage.ask("french").status == 200
    stage.simulator.fault("429", endpoint="france", times=-1, retry_after_seconds=20)
    stage.ask("french")
    error = refusal(stage.ask("french"), 429, "all_backends_out")
    assert "france" in error["message"]
    assert "sweden" not in error["message"]
    assert {entry["endpoint"] for entry in stage.simulator.requests()} == {"france"}
    stage.simulator.clear_faults()
    stage.gateway.wait_until(lambda: stage.ask("french").status == 200, "out of the break")


def test_a_deployment_at_other_endpoints_only_is_403(stage: Stage) -> None:
    error = refusal(stage.ask("french", model="gpt-4o-mini"), 403, "EndpointNotAllowed")
    assert "gpt-4o-mini" in error["message"]
    assert stage.simulator.requests() == []


def test_a_deployment_without_a_limit_is_403_where_limits_are_per_deployment(stage: Stage) -> None:
    error = refusal(stage.ask("listed", model="gpt-4o-mini"), 403, "no_limit_configured")
    assert "gpt-4o-mini" in error["message"]
    assert stage.simulator.requests() == []
    assert stage.ask("listed").status == 200


# --- request limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"max_tokens": 101}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 101}, "max_completion_tokens"),
        (CHAT, {"max_tokens": 20, "n": 3}, "n"),
        (RESPONSES, {"model": "gpt-4o", "input": "say: hi", "max_output_tokens": 101}, "max_output_tokens"),
        (COMPLETIONS, {"model": "instruct", "prompt": "say: hi", "max_tokens": 101}, "max_tokens"),
        (COMPLETIONS, {"model": "instruct", "prompt": "say: hi", "best_of": 4}, "best_of"),
    ],
)
def test_what_is_too_high_is_400_and_names_parameter_and_limit(
    stage: Stage, path: str, body: dict[str, Any], param: str
) -> None:
    error = refusal(stage.ask("strict", path, **body), 400, "parameter_over_limit")
    assert error["param"] == param
    assert str(CEILINGS.get(param, 100)) in error["message"]
    assert stage.simulator.requests() == []


@pytest.mark.parametrize("client", ["strict", "clamped"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "word " * 60}]}),
        (EMBEDDINGS, {"model": "text-embedding-3-small", "input": ["word " * 40, "word " * 20]}),
        (RESPONSES, {"model": "gpt-4o", "input": "word " * 60}),
        (COMPLETIONS, {"model": "instruct", "prompt": "word " * 60}),
    ],
)
def test_a_prompt_that_is_too_long_is_400_with_either_action(
    stage: Stage, client: str, path: str, body: dict[str, Any]
) -> None:
    error = refusal(stage.ask(client, path, **body), 400, "parameter_over_limit")
    assert "at most 50" in error["message"]
    assert stage.simulator.requests() == []


START = '{"model": "gpt-4o",  "messages": [{"role": "user", "content": "say: \\u00e9t\\u00e9"}]'


@pytest.mark.parametrize(
    ("client", "path", "sent", "arrives", "said"),
    [
        ("clamped", CHAT, ', "max_tokens": 8000}', ', "max_tokens": 100}', "max_tokens 8000->100"),
        (
            "clamped",
            CHAT,
            ', "max_completion_tokens" :8000, "n": 9}',
            ', "max_completion_tokens" :100, "n": 2}',
            "max_completion_tokens 8000->100, n 9->2",
        ),
        (
            # An SDK's null is no bound; a second key would make two of them.
            "clamped",
            CHAT,
            ', "max_tokens": null}',
            ', "max_tokens": 100}',
            "max_completion_tokens unset->100",
        ),
        ("given", CHAT, ', "max_tokens": 8000}', ', "max_tokens": 100}', "max_tokens 8000->100"),
        ("given", CHAT, ', "max_tokens": 100}', ', "max_tokens": 100}', None),
        ("short", CHAT, ', "max_tokens": 8000}', ', "max_tokens": 8000}', None),
    ],
)
def test_what_is_too_high_is_lowered_and_nothing_else_is_touched(
    stage: Stage, client: str, path: str, sent: str, arrives: str, said: str | None
) -> None:
    answer = stage.gateway.request("POST", path, key=key_of(client), body=(START + sent).encode())
    assert answer.status == 200, answer
    assert answer.headers.get("x-gateway-clamped") == said
    assert stage.record(answer)["clamped"] == said
    assert_received(stage, (START + arrives).replace('"gpt-4o"', '"gpt-4o-paygo"'))


@pytest.mark.parametrize(
    ("client", "path", "added"),
    [
        ("clamped", CHAT, '"max_completion_tokens":100'),
        ("given", CHAT, '"max_completion_tokens":30'),
        ("short", CHAT, '"max_completion_tokens":30'),
        ("clamped", OLD, '"max_tokens":100'),
    ],
)
def test_a_call_that_names_no_bound_is_given_one(stage: Stage, client: str, path: str, added: str) -> None:
    rest = '"messages": [{"role": "user", "content": "tell me"}], "temperature": 0.50}'
    answer = stage.gateway.request(
        "POST", path, key=key_of(client), body=("{" + _model(path) + rest).encode()
    )
    assert answer.status == 200, answer
    key, _, bound = added.replace('"', "").partition(":")
    assert answer.headers["x-gateway-clamped"] == f"{key} unset->{bound}"
    assert answer.json()["usage"]["completion_tokens"] <= int(bound)
    assert_received(stage, "{" + added + "," + _model(path, "gpt-4o-paygo") + rest)


def _model(path: str, name: str = "gpt-4o") -> str:
    return "" if path == OLD else f'"model": "{name}", '


def test_best_of_and_n_are_lowered_together(stage: Stage) -> None:
    body = {"model": "instruct", "prompt": "say: hi", "max_tokens": 5, "n": 2, "best_of": 8}
    answer = stage.ask("clamped", COMPLETIONS, **body)
    assert answer.status == 200
    assert answer.headers["x-gateway-clamped"] == "best_of 8->3"
    assert_received(stage, json.dumps({**body, "best_of": 3}))


# --- over quota --------------------------------------------------------------------------------------


def assert_hint(answer: Answer, begun: float, at_most: float = 60) -> None:
    """Check that the answer says to come back a minute after what was sent at `begun`, or a bit sooner."""
    milliseconds = int(answer.headers["retry-after-ms"])
    passed = time.monotonic() - begun
    assert 1000 * (60 - passed) - 1 <= milliseconds <= 1000 * at_most
    assert int(answer.headers["retry-after"]) == math.ceil(milliseconds / 1000)
    assert "x-should-retry" not in answer.headers


def test_over_its_requests_a_client_gets_429_and_the_exact_time(stage: Stage) -> None:
    before = time.monotonic()
    assert stage.ask("one-request").status == 200
    between = time.monotonic()
    time.sleep(0.3)
    asked = time.monotonic()
    answer = stage.ask("one-request")
    answered = time.monotonic()
    error = refusal(answer, 429, "quota_exceeded")
    assert error["type"] == "too_many_requests"
    assert "1 requests per minute" in error["message"]
    assert_hint(answer, before)
    # The first was stamped between `before` and `between`, and leaves the window 60 s after that.
    hint = int(answer.headers["retry-after-ms"]) / 1000
    assert before + 60 - answered <= hint <= between + 60 - asked + 0.002
    assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert int(answer.headers["x-ratelimit-reset-requests"]) == math.ceil(hint)
    assert "x-ratelimit-limit-tokens" not in answer.headers
    assert len(stage.simulator.requests()) == 1
    record = stage.record(answer)
    assert (record["outcome"], record["error"], record["charged_tokens"]) == (
        "rejected",
        "quota_exceeded",
        None,
    )


def test_over_its_tokens_a_client_gets_429_and_the_exact_time(stage: Stage) -> None:
    stage.simulator.fault("slow-first-token", seconds=0.5, times=1)
    begun = time.monotonic()
    first = stage.ask("few-tokens", max_tokens=20)
    used = first.json()["usage"]["total_tokens"]
    assert int(first.headers["x-ratelimit-limit-tokens"]) == 200
    answer = stage.ask("few-tokens", max_tokens=500)
    error = refusal(answer, 429, "quota_exceeded")
    assert "200 tokens per minute" in error["message"]
    # It was admitted before the backend took its half of a second.
    assert_hint(answer, begun, 59.5)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(200 - used)
    # What fits is still served: a refusal locks no client out.
    assert stage.ask("few-tokens", max_tokens=20).status == 200


def test_a_lone_call_larger_than_the_limit_is_served(stage: Stage) -> None:
    """Its reservation is capped at the limit: a small limit must not refuse everything."""
    answer = stage.ask("small", max_tokens=4000)
    assert answer.status == 200
    assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
    assert stage.record(answer)["charged_tokens"] == answer.json()["usage"]["total_tokens"]


def test_a_limit_of_nothing_says_that_coming_back_is_no_use(stage: Stage) -> None:
    answer = stage.ask("stopped")
    refusal(answer, 429, "quota_exceeded")
    assert "retry-after-ms" not in answer.headers
    assert "retry-after" not in answer.headers
    assert answer.headers["x-should-retry"] == "false"
    assert stage.ask("stopped", model="gpt-4o-mini").status == 200


@pytest.mark.usefixtures("same_day")
@pytest.mark.parametrize("client", ["daily", "monthly"])
def test_a_calendar_budget_that_is_spent_says_when_the_next_begins(stage: Stage, client: str) -> None:
    first = stage.ask(client, max_tokens=20)
    assert first.status == 200
    used = first.json()["usage"]["total_tokens"]
    before = datetime.now(UTC)
    answer = stage.ask(client, max_tokens=500)
    now = datetime.now(UTC)
    error = refusal(answer, 429, "quota_exceeded")
    assert f"120 tokens per {'day' if client == 'daily' else 'month'}" in error["message"]
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(120 - used)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if client == "daily":
        ends = midnight + timedelta(days=1)
    else:
        ends = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    wait = (ends - now).total_seconds()
    if wait > 62:  # beyond a minute SDKs would not keep to the hint
        assert "retry-after-ms" not in answer.headers
        assert answer.headers["x-should-retry"] == "false"
        took = (now - before).total_seconds()
        assert wait - 1 <= int(answer.headers["retry-after"]) <= wait + took + 1


# --- contracts ---------------------------------------------------------------------------------------


def test_a_call_does_not_wait_in_vain(stage: Stage) -> None:
    """The one before it is settled: nothing can make room within the bound."""
    first = time.monotonic()
    assert stage.ask("patient").status == 200
    answer = stage.ask("patient")
    refusal(answer, 429, "quota_exceeded")
    assert "waited" not in answer.json()["error"]["message"]
    assert_hint(answer, first)
    assert len(stage.simulator.requests()) == 1


def test_what_does_not_fit_is_answered_by_a_lesser_deployment_then_shortened(stage: Stage) -> None:
    """Over all deployments together, the other deployment does not help; a shorter answer does."""
    assert "x-gateway-degraded" not in stage.ask("brief", max_tokens=10).headers
    answer = stage.ask("brief", max_tokens=300)
    assert answer.status == 200
    said = "deployment gpt-4o -> gpt-4o-mini; max_tokens 300 -> 40"
    assert answer.headers["x-gateway-degraded"] == said
    record = stage.record(answer)
    assert (record["degraded"], record["asked_deployment"], record["deployment"]) == (
        said,
        "gpt-4o",
        "gpt-4o-mini",
    )
    assert record["reserved_tokens"] < 80


def test_a_lower_priority_runs_outside_the_quota(stage: Stage) -> None:
    stage.ask("lower", max_tokens=10)
    answer = stage.ask("lower", max_tokens=300)
    assert answer.status == 200
    assert answer.headers["x-gateway-degraded"].startswith("max_tokens 300 -> 40; priority batch")
    assert stage.record(answer)["priority"] == "batch"
    assert stage.record(answer)["reserved_tokens"] is None


def test_a_call_is_not_degraded_to_what_its_endpoints_do_not_serve(stage: Stage) -> None:
    assert stage.ask("cornered").status == 200
    refusal(stage.ask("cornered"), 429, "quota_exceeded")


# --- dry run -----------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_have_been_and_changes_nothing(stage: Stage) -> None:
    answer = stage.ask("observed", max_tokens=8000, n=3)
    assert answer.status == 200
    assert answer.headers["x-gateway-dry-run"] == "max_tokens 8000->100, n 3->2"
    assert "x-gateway-clamped" not in answer.headers
    body = HELLO | {"model": "gpt-4o-paygo", "max_tokens": 8000, "n": 3}
    assert_received(stage, json.dumps(body))
    for _ in range(3):  # the first call has been booked; these would have been refused
        answer = stage.ask("observed", max_tokens=10)
        assert answer.status == 200
        assert answer.headers["x-gateway-dry-run"] == "over 1 requests per minute"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert stage.record(answer)["charged_tokens"] is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"max_tokens": 101}, "parameter_over_limit"),
        ({"messages": [{"role": "user", "content": "word " * 60}], "max_tokens": 5}, "parameter_over_limit"),
        ({"model": "gpt-4o-mini", "max_tokens": 5}, "no_limit_configured"),
    ],
)
def test_a_dry_run_names_the_refusal_that_would_have_been(
    stage: Stage, body: dict[str, Any], said: str
) -> None:
    answer = stage.ask("observed-strictly", **body)
    assert answer.status == 200
    assert answer.headers["x-gateway-dry-run"] == said
    assert stage.record(answer)["dry_run"] == said


def test_access_is_enforced_in_a_dry_run_too(stage: Stage) -> None:
    refusal(stage.ask("observed-strictly", model="instruct"), 403, "DeploymentNotAllowed")


# --- a restart ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("same_day")
@pytest.mark.parametrize("host", ["serve"])
def test_calendar_budgets_survive_a_restart(
    start_gateway: Callable[..., Gateway], simulator: Simulator, tmp_path: Path
) -> None:
    client = {"name": "t", "key": key_of("t"), "max_tokens_per_month": 300, "max_tokens_per_day": 200}
    sections = {"clients": [client], "budget_file": str(tmp_path / "budgets.json")}
    gateway = start_gateway(simulator, **sections)
    body = {**HELLO, "max_tokens": 20}
    first = gateway.request("POST", CHAT, key=key_of("t"), json_body=body)
    used = first.json()["usage"]["total_tokens"]
    assert gateway.stop() == 0
    config = configuration(simulator.urls, simulator.keys, **sections)
    again = start_gateway(config=config, name="restarted")
    answer = again.request("POST", CHAT, key=key_of("t"), json_body={**body, "max_tokens": 500})
    refusal(answer, 429, "quota_exceeded")
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(200 - used)
