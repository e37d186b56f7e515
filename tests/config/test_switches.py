"""What is switched off by hand, over what the configuration says."""

from __future__ import annotations

import pytest

from aoai_gateway.config.models import Client, Config
from aoai_gateway.config.switches import Kind, Switches, UnknownNameError, enabled_in_file
from tests.engine_driver import DEPLOYMENT, config


def pool(configuration: Config) -> list[str]:
    return [backend.name for backend in configuration.pool(DEPLOYMENT)]


def test_nothing_off_is_the_configuration_itself() -> None:
    written = config("a")
    assert Switches().applied(written) is written


@pytest.mark.parametrize(
    ("kind", "name", "left"),
    [
        ("endpoint", "one", ["c@two"]),
        ("standin", "a@one", ["b@one", "c@two"]),
        ("standin", "c@two", ["a@one", "b@one"]),
        ("client", "anybody", ["a@one", "b@one", "c@two"]),
    ],
)
def test_what_is_off_is_out(kind: Kind, name: str, left: list[str]) -> None:
    written, switches = config("a@one", "b@one", "c@two"), Switches()
    assert switches.set(kind, name, on=False)
    assert not switches.set(kind, name, on=False)
    applied = switches.applied(written)
    assert pool(applied) == left
    assert (applied.client_named("anybody") is None) == (kind == "client")
    assert (applied.client_for_key("key-of-anybody") is None) == (kind == "client")
    assert applied.knows(DEPLOYMENT)
    assert list(switches) == [(kind, name)]
    assert switches.set(kind, name, on=True)
    assert switches.applied(written) is written


def test_it_holds_by_name_for_what_is_loaded_later() -> None:
    switches = Switches()
    switches.set("endpoint", "two", on=False)
    assert pool(switches.applied(config("a@one"))) == ["a@one"]
    assert pool(switches.applied(config("a@one", "c@two"))) == ["a@one"]


def test_a_client_keeps_its_group_and_keys() -> None:
    switches = Switches()
    written = config("a").but(
        groups=[{"name": "g", "max_tokens_per_minute": 7}],
        clients=[{"name": "x", "key": "key-of-x", "group": "g"}, {"name": "y", "key": "key-of-y"}],
    )
    switches.set("client", "y", on=False)
    applied = switches.applied(written)
    found = applied.client_for_key("key-of-x")
    assert found is not None
    assert dict(found.amounts())["tokens_per_minute"].total == 7
    assert applied.client_for_key("key-of-y") is None


def test_what_the_file_says() -> None:
    written = config("a@one", ("b@one", {"enabled": False})).but(
        clients=(Client(name="on", key="k1"), Client(name="off", key="k2", enabled=False))
    )
    assert enabled_in_file(written, "standin", "a@one")
    assert not enabled_in_file(written, "standin", "b@one")
    assert enabled_in_file(written, "endpoint", "one")
    assert not enabled_in_file(written, "client", "off")
    with pytest.raises(UnknownNameError, match="there is no client 'of'; the configuration has on, off"):
        enabled_in_file(written, "client", "of")
