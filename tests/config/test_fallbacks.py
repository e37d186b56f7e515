"""Fallbacks: what may be written, and where it may lead."""

from collections.abc import Callable

import pytest

from aoai_gateway.config.fallbacks import fallbacks_of
from aoai_gateway.config.models import Config

Lines = Callable[..., list[str]]


def document(*deployments: str, elsewhere: str = "") -> str:
    """Write a configuration: ``a {content_filter: b}`` is a deployment and its fallback."""
    return (
        "clients: [{name: Team, key: k}]\naoai:\n  endpoints:\n"
        + _endpoint("one", deployments)
        + (_endpoint("two", (elsewhere,)) if elsewhere else "")
    )


def _endpoint(name: str, deployments: tuple[str, ...]) -> str:
    lines = [f"    - name: {name}\n      url: https://{name}.example\n      key: k-{name}\n"]
    lines.append("      virtual_deployments:\n")
    for each in deployments:
        deployment, _, fallback = each.partition(" ")
        lines.append(f"        - name: {deployment}\n          standins: [{{name: s-{deployment}}}]\n")
        lines += [f"          fallback: {fallback}\n"] if fallback else []
    return "".join(lines)


def test_each_cause_leads_to_a_deployment(warnings: Lines):
    assert warnings(document("a {content_filter: b, context_length: c, missing_model: b}", "b", "c")) == []
    assert warnings(document("a", "b")) == []


@pytest.mark.parametrize("cause", ["content_filter", "context_length", "missing_model"])
def test_an_unknown_deployment_is_named_with_the_one_that_was_meant(problems: Lines, cause: str):
    (said,) = problems(document(f"gpt-4o {{{cause}: gpt-4o-mnii}}", "gpt-4o-mini"))
    assert f"virtual_deployments[0].fallback.{cause}: gpt-4o-mnii is not a virtual deployment" in said
    assert 'did you mean "gpt-4o-mini"?' in said


@pytest.mark.parametrize(
    ("deployments", "circle"),
    [
        (["a {content_filter: a}"], "a cannot fall back to itself"),
        (["a {content_filter: b}", "b {content_filter: a}"], "a -> b -> a"),
        (["a {content_filter: b}", "b {context_length: a}"], "a -> b -> a"),
        (
            [
                "x {missing_model: a}",
                "a {context_length: b}",
                "b {content_filter: c}",
                "c {missing_model: a}",
            ],
            "a -> b -> c -> a",
        ),
        (["A {content_filter: b}", "b {content_filter: a}"], "A -> b -> A"),
    ],
)
def test_no_way_leads_back_to_where_it_began(problems: Lines, deployments: list[str], circle: str):
    (said,) = problems(document(*deployments))
    assert circle in said


def test_two_ways_to_one_deployment_are_no_circle(warnings: Lines):
    assert warnings(document("a {content_filter: b, context_length: c}", "b {context_length: c}", "c")) == []


def test_what_endpoints_say_of_one_deployment_counts_together(problems: Lines, warnings: Lines):
    assert warnings(document("a {content_filter: b}", "b", elsewhere="a {context_length: b}")) == []
    (said,) = problems(document("a {content_filter: b}", "b", "c", elsewhere="a {content_filter: c}"))
    assert 'a has "b" in gateway.yaml:' in said
    assert "endpoints[1].virtual_deployments[0].fallback.content_filter" in said


def test_litellms_names_are_understood(problems: Lines):
    (said,) = problems(document("a {content_policy_fallbacks: b}", "b"))
    assert 'did you mean "content_filter"?' in said
    (said,) = problems(document("a {context_window_fallbacks: b}", "b"))
    assert 'did you mean "context_length"?' in said


def test_the_case_of_a_name_does_not_count():
    virtual = [
        {"name": "GPT", "standins": [{"name": "s"}], "fallback": {"content_filter": "other"}},
        {"name": "Other", "standins": [{"name": "t"}]},
    ]
    endpoint = {"name": "e", "url": "https://e.example", "key": "k", "virtual_deployments": virtual}
    config = Config.model_validate({"aoai": {"endpoints": [endpoint]}})
    assert fallbacks_of(config, config.spelled("gpt")) == {"content_filter": config.spelled("other")}
    assert fallbacks_of(config, "unknown") == {}
