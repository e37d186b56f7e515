"""The files of a fresh checkout load, and say what the documentation says they do."""

import re
from pathlib import Path

import pytest

from aoai_gateway.config.loader import ConfigErrors, load
from aoai_gateway.config.policies import Amounts
from aoai_gateway.quota.effective_policy import effective_policy
from aoai_gateway.quota.quotas import Quota
from aoai_gateway.quota.request_limits import RequestLimits

ROOT = Path(__file__).parents[2]
AZURE = {"AOAI_SWEDEN_KEY": "a", "AOAI_FRANCE_KEY": "b", "TEAM1_KEY": "3f0c2a7d9b5e4168"}


def test_the_default_needs_nothing_and_warns_of_nothing():
    loaded = load(ROOT / "gateway.yaml", env={})
    config = loaded.config
    assert loaded.warnings == ()
    assert [file.name for file in loaded.files] == ["gateway.yaml", "clients.yaml", "priorities.yaml"]
    chat = ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "o4-mini"]
    others = ["whisper", "tts", "gpt-image-1", "claude-sonnet-5", "gpt-realtime"]
    assert list(config.virtual_deployments) == [*chat, *others]
    client = config.client_for_key("demo-key")
    assert client is not None
    assert set(client.deployments_allowed or ()) == set(config.virtual_deployments)
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 8080)


def test_what_the_default_suggests_works_as_soon_as_the_comment_is_gone(tmp_path: Path):
    (tmp_path / "policies").mkdir()
    for name in ("gateway.yaml", "policies/clients.yaml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(
            re.sub(
                r"^( *)# (state|state_prefix|budget_file|max_\w+|request_limits|when_exceeded):",
                r"\1\2:",
                text,
                flags=re.MULTILINE,
            ),
            encoding="utf-8",
        )
    loaded = load(tmp_path / "gateway.yaml", env={"REDIS_URL": "redis://localhost"})
    (client,) = loaded.config.clients
    assert dict(client.amounts()) == {
        "tokens_per_minute": Amounts(100_000, {}),
        "requests_per_minute": Amounts(600, {}),
    }
    assert client.request_limits is not None
    assert client.when_exceeded is not None
    assert loaded.config.store is not None
    assert loaded.config.budget_file == tmp_path / "budgets.json"
    assert [each.message for each in loaded.warnings] == ["has no effect: budgets are kept in Redis"]


def test_the_example_of_groups_does_what_its_comments_say():
    loaded = load(ROOT / "examples" / "teams.yaml", env={})
    config = loaded.config
    assert loaded.warnings == ()
    search, chat_bot, newcomers, batch = (
        effective_policy(config, client, "gpt-4o-mini") for client in config.clients
    )
    assert search.quotas == (Quota(None, 60_000, 300, 5_000_000),)
    assert effective_policy(config, config.clients[0], "gpt-4o").quotas[0] == Quota("gpt-4o", None, 60)
    assert search.request_limits == RequestLimits(16_384, None, 2, 2, 100_000, clamp=True)
    assert chat_bot.quotas == (Quota(None, 200_000, 300, 5_000_000),)
    assert (search.on_exceed.action, chat_bot.on_exceed.action) == ("wait", "reject")
    assert newcomers.quotas == (Quota("gpt-4o-mini", 20_000), Quota(None, tokens_per_month=1_000_000))
    assert newcomers.endpoints == {"france"}
    assert (search.dry_run, batch.dry_run) == (False, True)


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


def test_the_example_of_identities_holds_no_key():
    loaded = load(ROOT / "examples" / "identities.yaml", env={})
    assert loaded.warnings == ()
    config = loaded.config
    assert config.secrets == frozenset()
    assert [endpoint.written_key for endpoint in config.aoai.endpoints] == [None, None]
    assert [client.key for client in config.clients] == [(), (), ()]


def test_the_powerproxy_example_warns_only_of_what_is_different():
    loaded = load(ROOT / "examples" / "powerproxy.yaml", env={})
    assert loaded.config.usage_log == "stdout"
    said = [each.message for each in loaded.warnings]
    different = ("unverified", "without meaning", "for all deployments together")
    assert [any(each in message for each in different) for message in said] == [True] * 3
