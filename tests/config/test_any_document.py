"""Whatever people write: a configuration comes out, or problems do; never anything else, never a secret."""

from pathlib import Path

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from aoai_gateway.config import powerproxy
from aoai_gateway.config.describe import describe
from aoai_gateway.config.endpoints import Model
from aoai_gateway.config.loader import ConfigErrors, Loaded, Source, compile_sources
from aoai_gateway.config.models import Config

SECRET = "s3cr3t"  # short, so that no message would cut it
ENV = {"SECRET": f"{SECRET}-from-env", "NUMBER": "5"}

keys = sorted(
    {name for model in [Config, *Model.__subclasses__()] for name in model.model_fields}
    | set(powerproxy.TOP_LEVEL)
    | {"x-any", "keey", "mock_response", "auth", "fixed_client", "big", "<<"}
)
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
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=4),
    max_leaves=12,
)


def mapping(**known: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """A mapping with some of its keys right, and sometimes one that is not."""
    odd = st.dictionaries(st.sampled_from(keys).filter(lambda key: key not in known), anything, max_size=1)
    optional = {key: value | anything if key not in ("key", "url") else value for key, value in known.items()}
    return st.builds(lambda right, wrong: wrong | right, st.fixed_dictionaries({}, optional=optional), odd)


names = st.sampled_from(["one", "two", "big", "b1", "b2"])
fractions = st.sampled_from(["0", "0.5", "1"])
standin = mapping(name=names, non_streaming_fraction=fractions, enabled=st.sampled_from(["true", "false"]))
virtual = mapping(name=names, standins=st.lists(standin, max_size=3), model=names)
simulated = mapping(deployments=st.dictionaries(names, mapping(model=names), max_size=2))
endpoint = mapping(
    name=names,
    url=st.just("https://one.example"),
    key=secrets,
    virtual_deployments=st.lists(virtual, max_size=2),
    simulated=simulated,
    non_streaming_fraction=fractions,
)
limits = st.dictionaries(names, scalars, max_size=2) | scalars
client = mapping(
    name=names,
    key=secrets | st.lists(secrets, max_size=2),
    deployments_allowed=st.lists(names, max_size=2),
    max_tokens_per_minute_in_k=limits,
    uses_entra_id_auth=st.sampled_from(["true", "false"]),
)
documents = mapping(
    aoai=mapping(endpoints=st.lists(endpoint, max_size=3)), clients=st.lists(client, max_size=3)
)


def outcome(*contents: bytes) -> Loaded | ConfigErrors:
    try:
        sources = [Source(Path(f"{number}.yaml"), content) for number, content in enumerate(contents)]
        return compile_sources(sources, env=ENV)
    except ConfigErrors as errors:
        return errors


@given(documents, documents)
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
    else:
        assert result.problems
        assert len(set(result.problems)) == len(result.problems)
        said = str(result)
    assert SECRET not in said


@given(anything)
def test_any_document_at_all(document: object):
    result = outcome(yaml.safe_dump(document).encode())
    assert isinstance(result, Loaded) or result.problems


@given(st.text(max_size=100))
def test_any_text_at_all(text: str):
    result = outcome(text.encode("utf-8", "surrogatepass"))
    assert isinstance(result, ConfigErrors)
    assert result.problems
