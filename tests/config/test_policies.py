"""Groups, limits and what happens when they are exceeded: what they mean, and what is wrong with them."""

from collections.abc import Callable

import pytest

from aoai_gateway.config.loader import Loaded
from aoai_gateway.config.models import Client
from aoai_gateway.config.policies import Amounts, Policy, RequestBounds, RequestLimits

Lines = Callable[..., list[str]]

HEAD = """\
aoai:
  endpoints:
    - name: one
      url: https://one.example
      key: k
      virtual_deployments: [{name: big, standins: [{name: b}]}, {name: small, standins: [{name: s}]}]
    - name: West Europe
      url: https://west.example
      key: k
      virtual_deployments: [{name: big, standins: [{name: b, non_streaming_fraction: 0.5}, {name: c}]}]
"""
GROUP = HEAD + "groups:\n  - name: G\n    HERE\nclients:\n  - {name: Team, key: t, group: G}\n"
CLIENT = HEAD + "clients:\n  - name: Team\n    key: t\n    HERE\n"


# --- amounts -----------------------------------------------------------------------------------------------


def amounts(**written: object) -> dict[str, Amounts]:
    return dict(Policy.model_validate(written).amounts())


def test_a_number_is_over_all_deployments():
    assert amounts(max_tokens_per_minute="30000") == {"tokens_per_minute": Amounts(30_000, {})}
    assert amounts(max_tokens_per_minute_in_k="30") == amounts(max_tokens_per_minute=30_000)
    assert amounts(max_requests_per_minute=0) == {"requests_per_minute": Amounts(0, {})}


def test_a_mapping_is_per_deployment_and_total_is_over_all_of_them():
    assert amounts(max_tokens_per_minute_in_k={"big": "4.35", "small": "0"}) == {
        "tokens_per_minute": Amounts(None, {"big": 4350, "small": 0})
    }
    assert amounts(max_tokens_per_day={"big": 5, "total": 7}, max_tokens_per_month={"total": 9}) == {
        "tokens_per_day": Amounts(7, {"big": 5}),
        "tokens_per_month": Amounts(9, {}),
    }


def test_what_a_limit_covers():
    assert Amounts(None, {"big": 1}).covers("big")
    assert not Amounts(None, {"big": 1}).covers("small")
    assert Amounts(2, {"big": 1}).covers("small")
    assert not Amounts(None, {}).covers("big")


# --- request limits ----------------------------------------------------------------------------------------


def test_a_bare_number_is_a_ceiling():
    limits = RequestLimits.model_validate({"max_tokens": "5"})
    assert limits.max_tokens is not None
    assert (limits.max_tokens.ceiling, limits.max_tokens.default) == (5, None)


def test_bounds_of_a_deployment_win_key_by_key():
    limits = RequestLimits.model_validate(
        {
            "n": 2,
            "best_of": 3,
            "action": "clamp",
            "deployments": {"gpt-*": {"n": 4}, "gpt-4o": {"n": 5, "action": "reject"}, "*": {"n": 6}},
        }
    )

    def at(deployment: str) -> tuple[object, ...]:
        found = limits.at(deployment)
        assert type(found) is RequestBounds
        return found.n, found.best_of, found.action, found.prompt_tokens

    assert at("gpt-4o") == (5, 3, "reject", None)  # its own entry, though a pattern comes first
    assert at("gpt-4o-mini") == (4, 3, "clamp", None)
    assert at("o3") == (6, 3, "clamp", None)


# --- groups ------------------------------------------------------------------------------------------------


def test_a_client_has_what_its_group_says_and_its_own_keys_win(compiled: Callable[..., Loaded]):
    loaded = compiled(
        HEAD,
        """\
        groups:
          - name: standard
            description: Everybody.
            deployments_allowed: b*
            endpoints_allowed: West Europe, one
            priority: standard
            max_tokens_per_minute: 500
            max_requests_per_minute: {big: 5, total: 6}
            request_limits: {n: 2, best_of: 3}
            when_exceeded: {action: wait, seconds: 5}
            dry_run: true
        clients:
          - {name: plain, key: p, group: standard}
          - {name: own, key: o, group: standard, max_requests_per_minute: 9, request_limits: {n: 5},
             when_exceeded: reject, dry_run: no}
          - {name: alone, key: a}
        """,
    )
    plain, own, alone = loaded.config.clients
    assert loaded.config.client_for_key("p") is plain
    assert plain.description == ""
    assert plain.deployments_allowed == own.deployments_allowed == ("b*",)
    assert plain.endpoints_allowed == ("West Europe", "one")
    assert (plain.priority, plain.dry_run, own.dry_run, alone.dry_run) == ("standard", True, False, None)
    assert dict(plain.amounts())["requests_per_minute"] == Amounts(6, {"big": 5})
    assert dict(own.amounts()) == {
        "tokens_per_minute": Amounts(500, {}),
        "requests_per_minute": Amounts(9, {}),
    }
    assert own.request_limits is not None
    assert (own.request_limits.n, own.request_limits.best_of) == (5, None)  # the whole key, not parts of it
    assert own.when_exceeded is not None
    assert own.when_exceeded.action == "reject"
    assert alone.deployments_allowed is None


@pytest.mark.parametrize("own", ["max_tokens_per_minute", "max_tokens_per_minute_in_k"])
@pytest.mark.parametrize("groups", ["max_tokens_per_minute", "max_tokens_per_minute_in_k"])
def test_two_keys_for_one_limit_are_one_key(compiled: Callable[..., Loaded], own: str, groups: str):
    loaded = compiled(
        HEAD,
        f"groups: [{{name: G, {groups}: 7}}]\nclients: [{{name: Team, key: t, group: G, {own}: 5}}]\n",
    )
    factor = 1000 if own.endswith("_in_k") else 1
    assert dict(loaded.config.clients[0].amounts()) == {"tokens_per_minute": Amounts(5 * factor, {})}


@pytest.mark.parametrize("key", ["deployments_allowed", "endpoints_allowed"])
def test_nothing_written_behind_it_allows_nothing_in_a_group_too(
    compiled: Callable[..., Loaded], warnings: Lines, key: str
):
    text = GROUP.replace("HERE", f"{key}:")
    assert getattr(compiled(text).config.clients[0], key) == ()
    assert any(f"groups[0].{key}: is empty: " in each for each in warnings(text))


def test_a_client_keeps_its_group_through_a_change(compiled: Callable[..., Loaded]):
    config = compiled(GROUP.replace("HERE", "max_tokens_per_minute: 5")).config
    changed = config.but(drain_seconds=1, clients=(*config.clients, Client(name="new", key="n", group="G")))
    assert [dict(client.amounts())["tokens_per_minute"].total for client in changed.clients] == [5, 5]


def test_what_is_derived_goes_with_the_configuration(compiled: Callable[..., Loaded]):
    config = compiled(GROUP.replace("HERE", "max_tokens_per_minute: 5")).config
    config.derived["x"] = 1
    assert config.derived == {"x": 1}
    assert config.but(drain_seconds=1).derived == {}


# --- what is wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("colour: red", "colour: unknown key; known here: "),
        (
            "max_token_per_minute: 5",
            'max_token_per_minute: unknown key; did you mean "max_tokens_per_minute"?',
        ),
        ("tpm: 5", 'tpm: unknown key; did you mean "max_tokens_per_minute"?'),
        ("seconds: 5", 'seconds: unknown key; it belongs under "when_exceeded"'),
        ("best_of: 5", 'best_of: unknown key; it belongs under "request_limits"'),
        ("max_tokens_per_minute: -1", 'max_tokens_per_minute: is "-1", but it must be at least 0'),
        ("max_tokens_per_minute: 1.5", 'max_tokens_per_minute: is "1.5", but a whole number is expected'),
        ("max_tokens_per_day: {big: x}", 'max_tokens_per_day.big: is "x", but a whole number is expected'),
        (
            'max_tokens_per_minute: {"*": 5}',
            'max_tokens_per_minute["*"]: is a pattern, but a limit is for one virtual deployment; write '
            '"total" for the limit over all of them together',
        ),
        ("max_tokens_per_month: 1e99", "max_tokens_per_month: "),
        ("request_limits: 5", 'request_limits: is "5", but a mapping is expected (lines of key: value)'),
        (
            "request_limits: {max_tokns: 5}",
            'request_limits.max_tokns: unknown key; did you mean "max_tokens"?',
        ),
        (
            "request_limits: {max_tokens: 0}",
            'request_limits.max_tokens: is "0", but it must be greater than 0',
        ),
        (
            "request_limits: {max_tokens: {ceiling: 5, default: 6}}",
            "request_limits.max_tokens: has a default above its ceiling",
        ),
        (
            "request_limits: {max_tokens: {cieling: 5}}",
            'request_limits.max_tokens.cieling: unknown key; did you mean "ceiling"?',
        ),
        (
            "request_limits: {deployments: {big: {m: 5}}}",
            "request_limits.deployments.big.m: unknown key; known here: ",
        ),
        (
            "request_limits: {action: drop}",
            "request_limits.action: is \"drop\", but 'reject' or 'clamp' is expected",
        ),
        ("when_exceeded: 5", "when_exceeded: is \"5\", but 'reject', 'wait' or 'degrade' is expected"),
        (
            "when_exceeded: wait",
            "when_exceeded: does not say how long to wait; write {action: wait, seconds: 20}",
        ),
        (
            "when_exceeded: degrade",
            "when_exceeded: does not say to what; write {action: degrade, deployment: …}, or max_tokens, or "
            "priority",
        ),
        (
            "when_exceeded: {action: reject, seconds: 5}",
            "when_exceeded: has seconds, which only the action wait knows",
        ),
        (
            "when_exceeded: {action: wait, seconds: 5, max_tokens: 5}",
            "when_exceeded: has max_tokens, which only the action degrade knows",
        ),
        (
            "when_exceeded: {action: wait, seconds: inf}",
            'when_exceeded.seconds: is "inf", but a finite number is expected',
        ),
        ("when_exceeded: {seconds: 5}", 'when_exceeded: "action" is missing'),
        (
            "when_exceeded: {action: degrade, deployment: bgi}",
            'when_exceeded.deployment: bgi is not a virtual deployment; did you mean "big"?',
        ),
        ("dry_run: perhaps", 'dry_run: is "perhaps", but true or false is expected'),
    ],
)
@pytest.mark.parametrize(("head", "where"), [(GROUP, "groups[0]"), (CLIENT, "clients[0]")])
def test_mistakes_in_groups_and_clients(problems: Lines, head: str, where: str, line: str, said: str):
    (problem,) = problems(head.replace("HERE", line))
    number = 13 if head is GROUP else 14
    assert problem.startswith(f"gateway.yaml:{number}: {where}.{said}")


def test_one_limit_written_twice(problems: Lines):
    (said,) = problems(
        CLIENT.replace("HERE", "max_tokens_per_minute: 5\n    max_tokens_per_minute_in_k: {big: 5}")
    )
    assert said == (
        "gateway.yaml:15: clients[0].max_tokens_per_minute_in_k: sets the same limit as "
        "max_tokens_per_minute; write one of them"
    )


def test_a_virtual_deployment_called_total(problems: Lines):
    text = CLIENT.replace("HERE", "max_tokens_per_minute: {total: 5}").replace("name: small", "name: total")
    (said,) = problems(text)
    assert said.startswith(
        'gateway.yaml:14: clients[0].max_tokens_per_minute.total: "total" means all virtual deployments'
    )


def test_a_group_that_is_not_there(problems: Lines):
    (said,) = problems(GROUP.replace("HERE", "dry_run: no").replace("group: G", "group: g"))
    assert said == 'gateway.yaml:15: clients[0].group: is not a group; did you mean "G"?'
    (said,) = problems(CLIENT.replace("HERE", "group: G"))
    assert said == 'gateway.yaml:14: clients[0].group: is not a group; write "groups:" with it'


def test_group_names_are_unique_over_all_files(problems: Lines):
    (said,) = problems(GROUP.replace("HERE", "dry_run: no"), "groups: [{name: G}]")
    assert said == (
        'policies/0.yaml:1: groups[1].name: "G" is also the name of a group in gateway.yaml:12; '
        "names must differ"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("state: memry", "state: is neither memory nor the URL of a Redis server; write memory, or "),
        ("stat: memory", 'stat: unknown key; did you mean "state"?'),
        ("redis: {}", 'redis: unknown key; did you mean "state"?'),
        ("state: [memory]", "state: is a list, but a single text is expected"),
        ("state_prefix: ''", "state_prefix: is empty"),
        ("budget_file: nowhere/spent", "budget_file: is not a file in a folder that exists; looked at "),
    ],
)
def test_mistakes_about_the_state(problems: Lines, line: str, said: str):
    (problem,) = problems(CLIENT.replace("HERE", "") + line)
    assert problem.startswith(f"gateway.yaml:15: {said}")


@pytest.mark.parametrize("state", ["redis://u:${SECRET}@host:x", "${SECRET}", "http://u:${SECRET}@h/"])
def test_a_wrong_state_is_never_repeated(problems: Lines, state: str):
    (said,) = problems(CLIENT.replace("HERE", "") + f"state: '{state}'\n")
    assert "s3cr3t" not in said
    (said,) = problems(CLIENT.replace("HERE", "") + "state: {url: 's3cr3t'}\n")
    assert "s3cr3t" not in said


# --- what the writer should know of ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "deployments_allowed: [b*, smal?, gpt*]",
            ["deployments_allowed[2]: gpt* matches no virtual deployment; there are big and small"],
        ),
        (
            "endpoints_allowed: [on, Wset*, '*']",
            [
                'endpoints_allowed[0]: on is not an endpoint; did you mean "one"?',
                "endpoints_allowed[1]: Wset* matches no endpoint; there are one and West Europe",
            ],
        ),
        (
            "request_limits: {deployments: {bug: {n: 1}, b*: {n: 1}}}",
            ['request_limits.deployments.bug: bug is not a virtual deployment; did you mean "big"?'],
        ),
        (
            "max_requests_per_minute: {big: 5, bug: 5, total: 5}",
            ['max_requests_per_minute.bug: bug is not a virtual deployment; did you mean "big"?'],
        ),
        (
            "max_tokens_per_day: {small: 5}",
            [
                "max_tokens_per_day: what is spent per day and month is only kept in memory: a restart "
                'forgets it; write "budget_file:" with a path, or "state:" with a Redis URL',
                "max_tokens_per_day: has no limit for big, which the client may use: it will be refused "
                'there; add one, or "total" for all together, or write one number for all',
            ],
        ),
        ("max_tokens_per_minute: {small: 5, total: 6}", []),
        (
            "endpoints_allowed: West Europe",
            ["endpoints_allowed: no endpoint among them serves small, which the client may use"],
        ),
        ("endpoints_allowed: one", []),
        ("when_exceeded: {action: degrade, deployment: small}", []),
        (
            "when_exceeded: {action: degrade, deployment: small}\n    deployments_allowed: big",
            [
                "when_exceeded.deployment: the client may not use small, so its requests will not be "
                'degraded to it; add it to "deployments_allowed"'
            ],
        ),
    ],
)
@pytest.mark.parametrize(("head", "where"), [(GROUP, "groups[0]"), (CLIENT, "clients[0]")])
def test_warnings_about_groups_and_clients(
    warnings: Lines, head: str, where: str, line: str, said: list[str]
):
    number = 13 if head is GROUP else 14
    assert sorted(warnings(head.replace("HERE", line))) == sorted(
        f"gateway.yaml:{number}: {where}.{each}" for each in said
    )


def test_what_a_group_says_of_many_clients_is_said_once_where_it_stands(warnings: Lines):
    text = GROUP.replace("HERE", "max_tokens_per_minute: {big: 5}")
    more = "clients: [{name: B, key: b, group: G}, {name: C, key: c, group: G, deployments_allowed: big}]"
    (said,) = warnings(text, more)
    assert said.startswith("gateway.yaml:13: groups[0].max_tokens_per_minute: has no limit for small, ")


def test_what_a_client_says_itself_is_said_where_it_stands(warnings: Lines):
    text = GROUP.replace("HERE", "max_tokens_per_minute: 5")
    (said,) = warnings(text, "clients: [{name: B, key: b, group: G, max_tokens_per_minute: {small: 5}}]")
    assert said.startswith("policies/0.yaml:1: clients[1].max_tokens_per_minute: has no limit for big, ")


def test_the_last_in_line_among_the_allowed_endpoints(warnings: Lines):
    text = CLIENT.replace("HERE", "deployments_allowed: big\n    endpoints_allowed: one").replace(
        "[{name: b}]", "[{name: b, non_streaming_fraction: 0.5}]"
    )
    (said,) = warnings(text)
    assert "clients[0].endpoints_allowed: b@one becomes the last backend for big, and no other" in said


def test_where_budgets_are_kept(warnings: Lines, tmp_path):
    text = CLIENT.replace("HERE", "max_tokens_per_month: 5")
    (said,) = warnings(text, "clients: [{name: B, key: b, max_tokens_per_day: 5}]")
    assert said.startswith(
        "gateway.yaml:14: clients[0].max_tokens_per_month: what is spent per day and month "
    )
    kept = f"budget_file: {tmp_path}/spent\n"
    assert warnings(text + kept) == []
    assert warnings(text + "state: redis://localhost\n") == []
    (said,) = warnings(text + kept + "state: redis://localhost\n")
    assert said == "gateway.yaml:15: budget_file: has no effect: budgets are kept in Redis"
    places = f"affinity_file: {tmp_path}/places\n"
    assert warnings(CLIENT.replace("HERE", "max_tokens_per_minute: 5") + places) == []
    (said,) = warnings(text + places + "state: redis://localhost\n")
    assert said == "gateway.yaml:15: affinity_file: has no effect: affinity is kept in Redis"
