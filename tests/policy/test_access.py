"""Which client may use which deployment."""

from __future__ import annotations

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.policy.access import check_access, may_use, visible_deployments
from aoai_gateway.wire.errors import GatewayError

ANYTHING = Client(name="wide", key="key-of-wide")
SOME = Client(name="narrow", key="key-of-narrow", deployments_allowed="a, b")
NOTHING = Client(name="none", key="key-of-none", deployments_allowed=())


@pytest.mark.parametrize(
    ("client", "deployment", "may"),
    [
        (ANYTHING, "a", True),
        (SOME, "a", True),
        (SOME, "b", True),
        (SOME, "c", False),
        (SOME, "A", False),
        (SOME, "a, b", False),
        (SOME, "", False),
        (NOTHING, "a", False),
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


def test_only_what_may_be_used_is_shown() -> None:
    assert visible_deployments(SOME, ("c", "b", "a")) == ("b", "a")
    assert visible_deployments(ANYTHING, iter(("c", "b"))) == ("c", "b")
    assert visible_deployments(NOTHING, ("c",)) == ()
