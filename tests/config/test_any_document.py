"""Any document: a configuration comes out, or problems do; no other exception, and never a secret."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aoai_gateway.config import powerproxy
from aoai_gateway.config.describe import describe
from aoai_gateway.config.loader import ConfigErrors, Loaded, Source, compile_sources
from aoai_gateway.quota.effective_policy import effective_policy
from tests.config.all_models import all_models
from tests.examples import examples

SECRET = "s3cr3t-as-long-as-keys-are"
ENV = {"SECRET": f"{SECRET}-from-env", "NUMBER": "5"}

keys = sorted(
    {name for model in all_models() for name in model.model_fields}
    | set(powerproxy.TOP_LEVEL)
    | {"x-any", "keey", "mock_response", "auth", "fixed_client", "big", "<<"}
)
never_shown = [
    "uses_entra_id_auth",
    "enabled",
    "provisioned",
    "port",
    "seed",
    "max_requests_per_minute",
    "keey",
]
numbers = ["0", "1", "0.5", "-1", "nan", "1e999", "${NUMBER}"]
words = [
    None,
    "",
    "big",
    "b1",
    "true",
    "no",
    "stdout",
    "https://one.example/",
    "${SECRET}",
    "${NOT_SET}",
    "${",
]
plugins = [*powerproxy.PLUGINS, "Unknown", "managed_identity"]
scalars = st.sampled_from([*numbers, *words, *plugins])
secrets = st.sampled_from([SECRET, f"{SECRET} with a space", "${SECRET}", "${NOT_SET}", "", None, "___"])
any_value = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=4),
    max_leaves=12,
)


fractions = st.sampled_from(["0", "0.5", "1", "1"])
names = st.sampled_from(["big", "b1", "b2"])
switches = st.sampled_from(["true", "true", "false"])
patterns = st.sampled_from(["big", "b1", "b*", "?2", "*"])
amounts = st.sampled_from(["5", "${NUMBER}"])
limits = amounts | st.dictionaries(names | st.just("total"), amounts, min_size=1, max_size=2)


def mapping(optional: dict[str, st.SearchStrategy[object]], **required: st.SearchStrategy[object]):
    return st.fixed_dictionaries(dict(required), optional=optional)


standin = mapping({"non_streaming_fraction": fractions, "enabled": switches}, name=names)
virtual = mapping({}, name=names, standins=st.lists(standin, min_size=1, max_size=3))
endpoint = mapping(
    {"virtual_deployments": st.lists(virtual, max_size=2), "enabled": switches},
    name=st.uuids().map(str),
    url=st.just("https://one.example"),
    key=st.sampled_from([SECRET, "${SECRET}"]),
)
bounds: dict[str, st.SearchStrategy[object]] = {
    "max_tokens": amounts | mapping({"ceiling": amounts, "default": st.just("3")}),
    "n": amounts,
    "action": st.sampled_from(["reject", "clamp"]),
}
exceeded = st.sampled_from(["reject", {"action": "wait", "seconds": "5"}]) | mapping(
    {"deployment": names}, action=st.just("degrade"), max_tokens=amounts
)
policy: dict[str, st.SearchStrategy[object]] = {
    "deployments_allowed": st.lists(patterns, max_size=2),
    "endpoints_allowed": st.lists(patterns, max_size=2),
    "max_tokens_per_minute_in_k": limits,
    "max_requests_per_minute": limits,
    "max_tokens_per_day": limits,
    "request_limits": mapping(
        {**bounds, "deployments": st.dictionaries(patterns, mapping(bounds), max_size=2)}
    ),
    "when_exceeded": exceeded,
    "dry_run": switches,
}
group = mapping(policy, name=st.sampled_from(["one", "two"]))
client = mapping(
    {**policy, "enabled": switches, "group": st.sampled_from(["one", "one", "two"])},
    name=st.uuids().map(str),
    key=st.uuids().map(lambda unique: f"{SECRET}-{unique}"),
)
aoai = mapping({}, endpoints=st.lists(endpoint, min_size=1, max_size=3))
states = st.sampled_from(["memory", f"redis://:{SECRET}@host/0", "rediss://:${SECRET}@host"])
whole = mapping(
    {"groups": st.lists(group, max_size=2), "state": states},
    aoai=aoai,
    clients=st.lists(client, min_size=1, max_size=3),
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in inner for place in [(*path, key), *places(each, (*path, key))]]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    """A document that is right, but for up to three mistakes."""
    document: Any = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(places(document)))
        holder = document
        for part in path:
            holder = holder[part]
        match draw(st.sampled_from(["replace", "remove", "rename", "repeat"])):
            case "replace":
                holder[last] = draw(secrets if last in ("key", "state") else any_value)
            case "remove":
                del holder[last]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(never_shown if last in ("key", "state") else keys))] = holder.pop(
                    last
                )
            case "repeat" if isinstance(holder, list):
                holder.append(deepcopy(holder[last]))
        if not document:
            break
    return document


def outcome(*contents: bytes) -> Loaded | ConfigErrors:
    try:
        sources = [Source(Path(f"{number}.yaml"), content) for number, content in enumerate(contents)]
        return compile_sources(sources, env=ENV)
    except ConfigErrors as errors:
        return errors


@given(documents(), any_value.filter(lambda second: isinstance(second, dict)) | st.just({}))
@example({"aoai": {"endpoints": [None]}}, {"clients": [None]})
@example({"aoai": {"endpoints": [{"name": "one", "key": SECRET, "url": "https://one.example"}]}}, {})
def test_a_configuration_or_problems_and_no_secret(first: dict[str, object], second: dict[str, object]):
    result = outcome(yaml.safe_dump(first).encode(), yaml.safe_dump(second).encode())
    if isinstance(result, Loaded):
        said = describe(result) + "\n".join(map(str, result.warnings)) + repr(result)
        for name, pool in result.config.virtual_deployments.items():
            assert result.config.knows(name)
            assert not pool or pool[-1].non_streaming_fraction == 1
        assert result.config.clients
        for each in result.config.clients:
            for deployment in ("big", "b1", "anything"):
                made = effective_policy(result.config, each, deployment)
                assert made == effective_policy(result.config, each, deployment)
                assert made.on_exceed.deployment != deployment
    else:
        assert result.problems
        assert len(set(result.problems)) == len(result.problems)
        said = str(result)
    assert SECRET not in said


@given(any_value)
def test_any_document_at_all(document: object):
    result = outcome(yaml.safe_dump(document).encode())
    assert isinstance(result, Loaded) or result.problems


@settings(max_examples=examples(40))
@given(st.text(max_size=100))
def test_any_text_at_all(text: str):
    result = outcome(text.encode("utf-8", "surrogatepass"))
    assert isinstance(result, ConfigErrors)
    assert result.problems
