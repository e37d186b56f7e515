"""Which client may use which deployment and which endpoint."""

from __future__ import annotations

import pytest

from aoai_gateway.config.models import Client, Group
from aoai_gateway.quota.access import check_access, may_use, may_use_endpoint, visible_deployments
from aoai_gateway.wire.gateway_error import GatewayError

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
