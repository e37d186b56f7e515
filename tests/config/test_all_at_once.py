"""All errors are told at once, beside any others, and none that only follows from another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aoai_gateway.config.loader import ConfigErrors, Loaded, Source, compile_sources

HEAD = """\
aoai:
  endpoints:
    - name: one
      url: https://one.example/openai/v1
      key: key-of-one
      virtual_deployments:
        - {name: big, standins: [{name: b}]}
"""
CLIENTS = """\
clients:
  - name: Team
    key: key-of-team
    priority: urgent
    max_tokens_per_minute: {bigg: 10}
  - name: Team
    key: other
"""
BETWEEN_THE_PARTS = (
    'clients[1].name: "Team" is also the name of a client in gateway.yaml',
    "clients[0].priority: is not a priority",
    "clients[0].max_tokens_per_minute.bigg: bigg is not a virtual deployment",
    "aoai.endpoints[0].url: ends with /openai",
)
OTHER_ERRORS = {
    "a wrong value": "drain_seconds: soon\n",
    "an unknown key": "drain: 1\n",
    "a class that waits without saying how long": "priorities: [{name: a, wait: {length: 1}}]\n",
    "a class whose waiting time is wrong": "priorities: [{name: a, wait: {seconds: x}}]\n",
    "a group whose action is unknown": "groups: [{name: g, when_exceeded: {action: waits}}]\n",
    "a group that waits without saying how long": "groups: [{name: g, when_exceeded: {action: wait}}]\n",
    "a price without its parts": "prices: {big: {inputt: 1}}\n",
    "a section of the wrong kind": "listen: here\n",
}


@pytest.fixture
def told(compiled: Callable[..., Loaded]) -> Callable[..., str]:
    """Load text that has problems; return them and the warnings, one line each."""

    def run(*texts: str) -> str:
        with pytest.raises(ConfigErrors) as caught:
            compiled(*texts)
        return "\n".join(map(str, (*caught.value.problems, *caught.value.warnings)))

    return run


@pytest.mark.parametrize("kind", OTHER_ERRORS)
def test_what_lies_between_the_parts_is_told_beside_other_errors(told: Callable[..., str], kind: str):
    said = told(HEAD + CLIENTS + OTHER_ERRORS[kind])
    for each in BETWEEN_THE_PARTS:
        assert each in said


@pytest.mark.parametrize(
    "broken",
    [
        "        - {name: small}\n",
        "        - {name: small, standins: []}\n",
        "        - {name: small, standins: [{nam: s}]}\n",
        "        - {name: small, standins: [{name: s, weight: x}]}\n",
        "    - {name: two, url: two.example, key: k, virtual_deployments: [{name: big}]}\n",
    ],
)
def test_a_broken_endpoint_hides_nothing(told: Callable[..., str], broken: str):
    said = told(HEAD + broken + CLIENTS)
    for each in BETWEEN_THE_PARTS:
        assert each in said


def test_without_endpoints_the_clients_are_judged_nevertheless(told: Callable[..., str]):
    said = told(CLIENTS)
    assert '"aoai" is missing' in said
    assert BETWEEN_THE_PARTS[0] in said
    assert BETWEEN_THE_PARTS[1] in said
    assert "unnamed" not in said
    assert "bigg" not in said


def test_names_that_are_made_up_for_missing_ones_are_not_told(told: Callable[..., str]):
    nameless = "        - {model_name: c, standins: [{model: c, weight: 2}]}\n"
    said = told(HEAD + nameless + CLIENTS)
    assert 'model_name: unknown key; did you mean "name"?' in said
    assert '.model: unknown key; did you mean "name"?' in said
    assert "unnamed" not in said


@pytest.mark.parametrize(
    ("old", "new", "follows"),
    [
        ("virtual_deployments", "virtual_deploymentss", "is not a virtual deployment"),
        ("{name: big, standins: [{name: b}]}", "[big]", "is not a virtual deployment"),
        ("{name: big, standins", "{name: 'b/g', standins", "is not a virtual deployment"),
        ("url: https", "urll: https", '"url" is missing'),
        ("clients:", "client:", "there is no client"),
    ],
)
def test_what_may_follow_from_an_error_is_not_told(
    told: Callable[..., str], old: str, new: str, follows: str
):
    assert follows not in told((HEAD + CLIENTS).replace(old, new))


@pytest.mark.parametrize(
    ("section", "follows"),
    [
        ("priorities: [{nam: urgent}]\n", "is not a priority"),
        ("prioritys: [{name: urgent}]\n", "is not a priority"),
        ("groups: [{nam: g}]\n", "is not a group"),
        ("tokens: [{issuerr: x}]\n", "no issuer of tokens is trusted"),
    ],
)
def test_a_name_that_could_not_be_read_is_not_missed(told: Callable[..., str], section: str, follows: str):
    client = "    group: g\n" * (section[0] == "g") + "    token: {appid: a}\n" * (section[0] == "t")
    assert follows not in told(HEAD + CLIENTS + client + section)


def test_beside_a_file_that_is_not_yaml_the_others_are_judged_by_themselves():
    sources = (
        Source(Path("gateway.yaml"), b"drain_seconds: soon\n"),
        Source(Path("policies/clients.yaml"), b"clients: [{name: Team, keyy: a}]\n"),
        Source(Path("policies/endpoints.yaml"), b"aoai: [\n"),
    )
    with pytest.raises(ConfigErrors) as caught:
        compile_sources(sources, env={})
    assert [(str(each.file), each.path) for each in caught.value.problems] == [
        ("gateway.yaml", "drain_seconds"),
        ("policies/clients.yaml", "clients[0].keyy"),
        ("policies/endpoints.yaml", ""),
    ]
    assert caught.value.warnings == ()
