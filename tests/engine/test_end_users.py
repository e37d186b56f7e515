"""End users behind a client: who they are, and what each of them may use."""

from __future__ import annotations

import json

import pytest

from aoai_gateway.config.models import Client
from aoai_gateway.engine.end_users import DAY, EndUsers, pseudonym
from aoai_gateway.usage.record import usage_record
from tests.engine_driver import world


def bot(user_from: str = "header x-end-user", **more: object) -> Client:
    return Client.model_validate(
        {
            "name": "bot",
            "key": "k",
            "user_from": user_from,
            "per_user": {"max_requests_per_minute": 2},
            **more,
        }
    )


def outcomes(client: Client, *users: str | None, **call: object) -> list[int]:
    here = world("a")
    found = []
    for user in users:
        headers = {"x-end-user": user} if user is not None else {}
        found.append(here.call(client=client, headers=headers, max_tokens=5, **call).call.status or 0)
    return found


def test_each_end_user_has_limits_of_its_own() -> None:
    assert outcomes(bot(), "ann", "ann", "bob", "ann", "bob", "bob") == [200, 200, 200, 429, 200, 429]


def test_a_name_that_is_left_out_wins_nothing() -> None:
    assert outcomes(bot(), None, "", "  ", None) == [200, 200, 429, 429]


def test_the_clients_own_limits_hold_beside_them() -> None:
    assert outcomes(bot(max_requests_per_minute=3), "ann", "bob", "cid", "dan") == [200, 200, 200, 429]


def test_the_refusal_says_that_it_is_the_end_users() -> None:
    here = world("a")
    client = bot()
    for _ in range(3):
        trace = here.call(client=client, headers={"x-end-user": "ann"}, max_tokens=5)
    assert trace.call.error is not None
    assert "2 requests per minute per end user" in trace.call.error.message


def test_tokens_of_end_users_are_settled_like_others() -> None:
    here = world("a")
    client = bot(per_user={"max_tokens_per_day": 1000})
    statuses = [
        here.call(client=client, headers={"x-end-user": "ann"}, max_tokens=900).call.status for _ in range(3)
    ]
    assert statuses[:2] == [200, 200], "what was not used is free again"


@pytest.mark.parametrize("source", ["body user", "claim oid", "header X-End-User"])
def test_names_come_from_the_body_a_claim_or_a_header(source: str) -> None:
    here = world("a")
    trace = here.call(
        client=bot(source), headers={"x-end-user": "ann"}, max_tokens=5, claims={"oid": "ann"}, user="ann"
    )
    assert trace.call.user == "ann"


def test_records_hold_a_pseudonym_unless_told_otherwise() -> None:
    here = world("a")
    hashed = usage_record(here.call(client=bot(), headers={"x-end-user": "ann@contoso.example"}).call)
    plain = bot(user_in_records="plain")
    shown = usage_record(here.call(client=plain, headers={"x-end-user": "ann@contoso.example"}).call)
    assert hashed["user"] == pseudonym("bot", "ann@contoso.example")
    assert "ann" not in json.dumps(hashed)
    assert shown["user"] == "ann@contoso.example"
    assert pseudonym("other", "ann@contoso.example") != hashed["user"]


def test_no_more_end_users_than_a_bound_have_counters_of_their_own() -> None:
    users = EndUsers(most=3)
    own = {users.account("bot", f"user {number}", 0.0) for number in range(3)}
    assert len(own) == 3
    assert {users.account("bot", f"more {number}", 1.0) for number in range(100)} == {"user/others"}
    assert users.account("bot", "user 1", 2.0) in own
    assert users.account("bot", "late", DAY + 1.0) not in own, "the first was not seen for a day"
    assert len(users) == 3


@pytest.mark.parametrize("source", ["body user", "body metadata.user_id"])
def test_claude_has_the_end_user_elsewhere(source: str) -> None:
    here = world("a")
    body = {"model": "gpt", "max_tokens": 5, "messages": [], "metadata": {"user_id": "ann"}}
    trace = here.call(client=bot(source), body=body, path="/anthropic/v1/messages")
    assert trace.call.user == "ann"
    chat = here.call(client=bot("body user"), body={"model": "gpt", "messages": [], "user": "bob"})
    assert chat.call.user == "bob"
    odd = here.call(client=bot("body metadata.user_id"), body={"model": "gpt", "messages": [], "metadata": 5})
    assert odd.call.user is None


def test_one_clients_end_users_leave_room_for_those_of_others() -> None:
    users = EndUsers(most=3)
    own = {
        client: {users.account(client, f"user {number}", 0.0) for number in range(10)} - {"user/others"}
        for client in ("bot", "desk")
    }
    assert {client: len(accounts) for client, accounts in own.items()} == {"bot": 3, "desk": 2}
