"""Who may use the workbench on the admin listener; for mitmweb, tests/e2e/test_workbench.py asks it."""

from __future__ import annotations

from typing import Any

import pytest
from tornado.httputil import HTTPHeaders, HTTPServerRequest

from aoai_gateway.config.sections import Admin
from aoai_gateway.workbench.access import ListenerAccess

OWNER, ADA, VIEWER = "token-of-the-owner", "token-of-ada-12345", "token-of-the-viewer"
OPERATOR, WALL = "token-of-an-operator", "token-of-the-wall-screen"
ADMIN = Admin.model_validate(
    {
        "token": OWNER,
        "tokens": [
            {"name": "Ada", "token": ADA, "prompts": True},
            {"name": "Viewer", "token": VIEWER, "read_only": True, "prompts": True},
            {"name": "Operator", "token": OPERATOR},
            {"name": "Wall", "token": WALL, "read_only": True},
        ],
    }
)


class Asked:
    """A handler, as far as access looks at it."""

    def __init__(self, **headers: str) -> None:
        fields = {"content-type": "application/json", "host": "gateway.example", **headers}
        self.request = HTTPServerRequest("POST", "/", headers=HTTPHeaders(fields), connection=object())  # type: ignore[arg-type]


def asked(token: str | None, **headers: str) -> Any:
    return Asked(**headers, **({"authorization": f"Bearer {token}"} if token else {}))


@pytest.fixture(scope="module")
def access() -> ListenerAccess:
    return ListenerAccess(tuple(ADMIN.holders()))


@pytest.mark.parametrize(
    ("token", "sees", "changes"),
    [
        (OWNER, True, True), (ADA, True, True), (VIEWER, True, False), (OPERATOR, False, False),
        (WALL, False, False), (None, False, False),
    ],
)  # fmt: skip
def test_each_token_may_do_its_part(
    access: ListenerAccess, token: str | None, sees: bool, changes: bool
) -> None:
    assert (access.may_see(asked(token)) is None) is sees
    assert (access.may_change(asked(token)) is None) is changes


@pytest.mark.parametrize("token", [OPERATOR, WALL])
def test_a_token_of_the_status_page_is_told_what_it_needs_for_prompts(
    access: ListenerAccess, token: str
) -> None:
    for refusal in (access.may_see(asked(token)), access.may_change(asked(token))):
        assert refusal is not None
        assert refusal.status == 403
        assert "prompts: true" in refusal.message


def test_a_run_is_marked_with_the_name_of_the_tokens_holder(access: ListenerAccess) -> None:
    assert access.name_of(asked(ADA)) == "Ada"
    assert access.name_of(asked(None)) == ""


def test_without_tokens_it_is_for_this_machine_and_its_own_page() -> None:
    access = ListenerAccess(())
    assert access.may_see(asked(None)) is not None
    local = {"host": "127.0.0.1:8090"}
    assert access.may_change(asked(None, **local)) is None
    refusal = access.may_change(asked(None, **local, origin="https://evil.example"))
    assert refusal is not None
    assert refusal.status == 403
