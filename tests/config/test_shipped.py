"""The files of a fresh checkout load, and say what the documentation says they do."""

from pathlib import Path

import pytest

from aoai_gateway.config.loader import ConfigErrors, load

ROOT = Path(__file__).parents[2]
AZURE = {"AOAI_SWEDEN_KEY": "a", "AOAI_FRANCE_KEY": "b", "TEAM1_KEY": "c"}


def test_the_default_needs_nothing_and_warns_of_nothing():
    loaded = load(ROOT / "gateway.yaml", env={})
    config = loaded.config
    assert loaded.warnings == ()
    assert [file.name for file in loaded.files] == ["gateway.yaml", "clients.yaml"]
    assert list(config.virtual_deployments) == ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]
    client = config.client_for_key("demo-key")
    assert client is not None
    assert set(client.deployments_allowed or ()) == set(config.virtual_deployments)
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 8080)


def test_the_defaults_endpoints_are_simulated_one_with_ptu_and_paygo():
    config = load(ROOT / "gateway.yaml", env={}).config
    assert list(config.simulated_endpoints) == ["sweden", "france"]
    deployments = config.simulated_endpoints["sweden"].deployments
    assert deployments["gpt-4o-ptu"].provisioned_tokens_per_minute
    assert deployments["gpt-4o-paygo"].tokens_per_minute
    assert [backend.name for backend in config.pool("gpt-4o")] == [
        "gpt-4o-ptu@sweden",
        "gpt-4o-paygo@sweden",
        "gpt-4o@france",
    ]


def test_the_azure_example():
    loaded = load(ROOT / "examples" / "azure.yaml", env=AZURE)
    assert loaded.warnings == ()
    assert len(loaded.config.pool("gpt-4o")) == 3
    with pytest.raises(ConfigErrors) as caught:
        load(ROOT / "examples" / "azure.yaml", env={})
    assert len(caught.value.problems) == len(AZURE)


def test_what_the_azure_example_calls_defaults_are_the_defaults():
    config = load(ROOT / "examples" / "azure.yaml", env=AZURE).config
    for name in ("listen", "replay", "breaks", "drain_seconds"):
        value = getattr(config, name)
        assert value == type(config).model_fields[name].default, name


def test_the_powerproxy_example_warns_only_of_what_is_different():
    loaded = load(ROOT / "examples" / "powerproxy.yaml", env={})
    assert loaded.config.usage_log == "stdout"
    assert ["without meaning" in each.message for each in loaded.warnings] == [True]
