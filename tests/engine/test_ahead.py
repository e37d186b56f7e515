"""What is refused by a request's head: no more than would be refused with its body."""

from typing import Any

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.ahead import check_fits, check_lines, check_rights
from aoai_gateway.engine.call import Outcome, Setup
from aoai_gateway.quota.quotas import Reservation
from aoai_gateway.routing.backends import RoutingTable
from aoai_gateway.state.memory import MemoryState
from aoai_gateway.wire.batch_file import read_file
from aoai_gateway.wire.gateway_error import GatewayError
from aoai_gateway.wire.stored import InMemory
from aoai_gateway.wire.targets import parse_target
from tests.engine_driver import DEPLOYMENT, config, world

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


ON_OTHER_WAYS = {
    "parts": ("uploads", {"purpose": "batch", "filename": "a.jsonl", "bytes": 9, "mime_type": "text/jsonl"}),
    "parts, spelled otherwise": ("uploads", {"Purpose": " Batch ", "bytes": 9}),
    "import": ("files/import", {"purpose": "batch", "content_url": "https://elsewhere.example/a.jsonl"}),
    "blob": ("batches", {"input_blob": "https://elsewhere.example/a.jsonl", "endpoint": "/chat/completions"}),
}


@pytest.mark.parametrize(("path", "body"), ON_OTHER_WAYS.values(), ids=ON_OTHER_WAYS)
def test_lines_that_are_not_read_are_for_clients_that_may_use_every_deployment(
    path: str, body: dict[str, Any]
) -> None:
    there = world("a")
    bounded = Client(name="one", key="key-of-the-client", deployments_allowed="gpt")
    refused = there.call(body, path=f"/openai/v1/{path}", client=bounded)
    assert (refused.error.status, refused.error.code) == (403, "DeploymentNotAllowed")
    assert "POST files" in refused.error.message
    assert there.call(body, path=f"/openai/v1/{path}").call.outcome is Outcome.OK


@pytest.mark.parametrize(
    ("path", "body"),
    [("uploads", {"purpose": "assistants"}), ("batches", {"input_file_id": "file-1234567890abcdef"})],
)
def test_other_files_in_parts_are_for_all(path: str, body: dict[str, Any]) -> None:
    bounded = Client(name="one", key="key-of-the-client", deployments_allowed="gpt")
    assert world("a").call(body, path=f"/openai/v1/{path}", client=bounded).call.outcome is Outcome.OK


def test_a_run_of_an_evaluation_asks_a_deployment_of_its_client() -> None:
    body = {"data_source": {"type": "completions", "model": DEPLOYMENT, "source": {}}}
    path = "/openai/v1/evals/eval_1234567890abcdef/runs"
    assert world("a").call(body, path=path).call.deployment == DEPLOYMENT
    bounded = Client(name="one", key="key-of-the-client", deployments_allowed="other")
    assert world("a").call(body, path=path, client=bounded).error.code == "DeploymentNotAllowed"
    assert world("a").call({"data_source": {"type": "jsonl"}}, path=path).call.outcome is Outcome.OK
