"""Which deployments, endpoints and priority class a client may use."""

from __future__ import annotations

import pytest

from aoai_gateway.config.models import Client, Group
from aoai_gateway.config.priorities import Priority
from aoai_gateway.quota.access import check_access, class_of, may_use, may_use_endpoint, visible_deployments
from aoai_gateway.wire.gateway_error import GatewayError
from tests.engine_driver import config

ANYTHING = Client(name="wide", key="key-of-wide")
SOME = Client(name="narrow", key="key-of-narrow", deployments_allowed="a, b")
PATTERNS = Client(name="patterns", key="key-of-patterns", deployments_allowed="gpt-4o*, o?, a")
NOTHING = Client(name="none", key="key-of-none", deployments_allowed=(), endpoints_allowed=())
PLACES = Group(name="places", endpoints_allowed="West Europe, france*")


@pytest.mark.parametrize(
    ("client", "deployment", "may"),
    [
        (ANYTHING, "a", True),
        (SOME, "a", True),
        (SOME, "b", True),
        (SOME, "c", False),
        (SOME, "A", True),
        (SOME, "a, b", False),
        (SOME, "", False),
        (NOTHING, "a", False),
        (PATTERNS, "gpt-4o", True),
        (PATTERNS, "gpt-4o-mini", True),
        (PATTERNS, "my-gpt-4o", False),
        (PATTERNS, "o3", True),
        (PATTERNS, "o3-mini", False),
        (PATTERNS, "a", True),
        (PATTERNS, "gpt-4*", False),
    ],
)
def test_who_may_use_what(client: Client, deployment: str, may: bool) -> None:
    assert may_use(client, deployment) is may
    if may:
        check_access(client, deployment)
    else:
        with pytest.raises(GatewayError) as refused:
            check_access(client, deployment)
        assert (refused.value.status, refused.value.code) == (403, "DeploymentNotAllowed")


def test_a_refusal_names_what_is_allowed() -> None:
    with pytest.raises(GatewayError) as refused:
        check_access(SOME, "c")
    assert "a, b" in refused.value.message
    with pytest.raises(GatewayError) as refused:
        check_access(PATTERNS, "c")
    assert "gpt-4o*, o?, a" in refused.value.message


def test_only_what_may_be_used_is_shown() -> None:
    assert visible_deployments(SOME, ("c", "b", "a")) == ("b", "a")
    assert visible_deployments(PATTERNS, ("c", "gpt-4o-mini", "a")) == ("gpt-4o-mini", "a")
    assert visible_deployments(ANYTHING, iter(("c", "b"))) == ("c", "b")
    assert visible_deployments(NOTHING, ("c",)) == ()


def test_which_endpoints_may_serve() -> None:
    def of(policy: Client | Group) -> list[bool]:
        return [may_use_endpoint(policy, name) for name in ("West Europe", "france-2", "west europe", "x")]

    assert of(PLACES) == of(SOME.within(PLACES)) == [True, True, False, False]
    assert of(ANYTHING) == [True] * 4
    assert of(NOTHING) == of(NOTHING.within(PLACES)) == [False] * 4


NAMES = ("critical", "standard", "batch")
CONFIG = config("a", priorities=tuple(Priority(name=name) for name in NAMES), default_priority="standard")


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [
        ("critical", None, "critical"),
        ("critical", "batch", "batch"),
        ("critical", " standard ", "standard"),
        ("batch", "batch", "batch"),
        (None, None, "standard"),
        (None, "batch", "batch"),
    ],
)
def test_a_request_has_its_clients_class_or_a_lower_one(own: str | None, asked: str | None, expected: str):
    assert class_of(CONFIG, own, asked).name == expected


@pytest.mark.parametrize("asked", ["critical", "Batch", "", "x\r\ny"])
def test_a_higher_class_or_an_unknown_one_is_refused_with_what_is_allowed(asked: str):
    with pytest.raises(GatewayError) as caught:
        class_of(CONFIG, None, asked)
    assert (caught.value.status, caught.value.code) == (400, "priority_not_allowed")
    assert "standard, batch" in caught.value.message
    assert "\r" not in caught.value.message


def test_without_priorities_the_header_means_nothing():
    assert class_of(config("a"), "critical", "batch").name == "default"
