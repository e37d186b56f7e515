"""What is refused by a request's head: no more than would be refused with its body."""

from typing import Any

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.ahead import check_fits, check_lines, check_rights
from aoai_gateway.engine.call import Setup
from aoai_gateway.quota.quotas import Reservation
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.wire.batch_file import read_file
from aoai_gateway.wire.errors import GatewayError
from aoai_gateway.wire.stored import InMemory
from aoai_gateway.wire.targets import parse_target
from tests.engine_driver import config

V1 = "/openai/v1/chat/completions"


def classic(deployment: str, operation: str = "chat/completions") -> str:
    return f"/openai/deployments/{deployment}/{operation}?api-version=2024-10-21"


def least(path: str, **client: Any) -> Reservation | None:
    configuration = config("a")
    setup = Setup(configuration, RoutingTable(configuration))
    asking = Client(name="one", key="key-of-the-client", **client)
    return check_rights(setup, asking, parse_target("POST", path))


def refused(path: str, **client: Any) -> tuple[int, str]:
    with pytest.raises(GatewayError) as caught:
        least(path, **client)
    return caught.value.status, caught.value.code


def test_what_the_path_names_is_looked_at() -> None:
    assert refused(classic("nonsense")) == (404, "DeploymentNotFound")
    assert refused(classic("gpt"), deployments_allowed="other")[0] == 403
    assert refused(classic("gpt"), max_requests_per_minute={"other": 3})[0] == 403
    assert least(classic("GPT")) is None
    assert least(V1, deployments_allowed="other") is None


@pytest.mark.parametrize(
    ("path", "limit", "kinds"),
    [
        (classic("gpt"), 3, [None]),
        (classic("gpt"), {"gpt": 3}, ["gpt"]),
        # Which deployment it is for, the body says.
        (V1, 3, [None]),
        (V1, {"gpt": 3}, []),
    ],
)
def test_one_request_must_fit(path: str, limit: object, kinds: list[str | None]) -> None:
    question = least(path, max_requests_per_minute=limit)
    assert [quota.deployment for quota in question.quotas] == kinds if question else not kinds
    if question is not None:
        assert (question.requests, question.tokens) == (1, 0)


@pytest.mark.parametrize(
    "policy",
    [
        {"dry_run": True},
        {"when_exceeded": {"action": "wait", "seconds": 5}},
        {"per_user": {"max_requests_per_minute": 1}},
    ],
)
def test_where_it_could_yet_be_served_nothing_is_asked(policy: dict[str, Any]) -> None:
    limit = {} if "per_user" in policy else {"max_requests_per_minute": 3}
    assert least(V1, **policy, **limit) is None


def test_it_books_nothing_and_refuses_what_is_used_up() -> None:
    state, question = MemoryState(), least(V1, max_requests_per_minute=1)
    assert question is not None
    for _ in range(3):
        check_fits(state.peek(question, 0))
    state.reserve(Reservation("call", "one", question.quotas, 5), 0)
    with pytest.raises(GatewayError) as caught:
        check_fits(state.peek(question, 30))
    assert (caught.value.status, caught.value.code) == (429, "quota_exceeded")
    assert dict(caught.value.headers)["retry-after"] == "30"
    assert "1 requests per minute" in caught.value.message


def of_lines(named: str, *, open_: bool = False, **client: Any) -> None:
    configuration = config("a")
    if open_:
        endpoints = tuple(each.but(virtual_deployments=()) for each in configuration.aoai.endpoints)
        configuration = configuration.but(aoai=configuration.aoai.but(endpoints=endpoints))
    setup = Setup(configuration, RoutingTable(configuration))
    file = b"\n".join(b'{"body": {"model": "%s"}}' % name for name in named.encode().split())
    lines = read_file(InMemory(file), 0, len(file))
    deployment = configuration.spelled(lines.model or "")
    check_lines(setup, Client(name="one", key="key-of-the-client", **client), lines, deployment)


def test_a_batch_names_a_deployment_of_its_client() -> None:
    of_lines("gpt GPT")
    with pytest.raises(
        GatewayError, match=r"^404 DeploymentNotFound: Line 1 of the batch's input file: .*'other'"
    ):
        of_lines("other")
    with pytest.raises(GatewayError, match=r"^403 DeploymentNotAllowed: Line 1 of"):
        of_lines("gpt", deployments_allowed="other")
    with pytest.raises(GatewayError, match=r"^400 model_mismatch: Line 2 of"):
        of_lines("gpt other")


def test_where_all_names_are_allowed_the_endpoint_judges_the_file() -> None:
    of_lines("any any", open_=True)
    of_lines("any other", open_=True)
    with pytest.raises(GatewayError, match=r"^400 model_mismatch"):
        of_lines("any other", open_=True, deployments_allowed="any")
