"""Where counters can live: memory, one Redis, behind Sentinels, or in a Cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from aoai_gateway.config.loader import Loaded
from aoai_gateway.config.shared_store import (
    SharedStore,
    StateUrl,
    StoreHost,
    host_and_port,
    passwords_of,
    shown_address,
)

Lines = Callable[..., list[str]]

BASE = """\
aoai: {endpoints: [{name: one, url: 'https://one.example', key: k}]}
clients: [{name: a, key: b}]
state:
"""
ENV = {"PASSWORD": "s3cr3t-of-redis", "OTHER": "s3cr3t-of-sentinel"}


def message(kind: object, value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    (error,) = caught.value.errors()
    return str(error["msg"])


# --- as a URL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "memory",
        "redis://localhost",
        "redis://localhost:6379/0",
        "redis://:p%40ss@cache.example:6380/",
        "rediss://user:s3cr3t@[::1]:6380/15?health_check_interval=10",
    ],
)
def test_where_counters_can_live(url: str) -> None:
    assert TypeAdapter(StateUrl).validate_python(url).get_secret_value() == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is neither memory nor the URL"),
        ("Memory", "is neither memory nor the URL"),
        ("cache.example:6379", "is neither memory nor the URL"),
        ("https://u:s3cr3t@cache.example", "is neither memory nor the URL"),
        ("redis://", "names no host"),
        ("redis://:s3cr3t@/0", "names no host"),
        ("redis://:s3cr3t@cache.example/zero", "names a database that is not a number"),
        ("redis://:s3cr3t@cache.example/0/1", "names a database that is not a number"),
        ("redis://:s3cr3t/x@cache.example:6379", "is not a URL"),
        ("redis://:___@cache.example", "is still a placeholder"),
        ("redis+sentinel://:s3cr3t@one/mymaster/0", "has no form as a URL for Sentinels"),
        ("sentinel://:s3cr3t@one", "has no form as a URL for Sentinels"),
        ("rediss+cluster://:s3cr3t@one", "has no form as a URL for a Cluster"),
        ("redis+sentinel://:s3cr3t@one:26379,two:26379/mymaster", "is not a URL"),
    ],
)
def test_where_counters_cannot_live(url: str, said: str) -> None:
    told = message(StateUrl, url)
    assert told.startswith(said)
    assert "s3cr3t" not in told


# --- as a mapping --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("{host: cache.example}", "redis://cache.example/0"),
        ("{host: '[::1]:6380', tls: true, database: 3}", "rediss://[::1]:6380/3"),
        ("{host: cache.example, tls: false}", "redis://cache.example/0"),
        (
            "{sentinel: {master: mymaster, hosts: [one, 'two:26380']}, username: a, password: '${PASSWORD}'}",
            "redis+sentinel://one,two:26380/mymaster/0",
        ),
        (
            "{sentinel: {master: m, hosts: 'a, b', password: '${OTHER}'}, tls: {enabled: on}, database: 2}",
            "rediss+sentinel://a,b/m/2",
        ),
        ("{cluster: 'one:6379, two_b', password: '${PASSWORD}'}", "redis+cluster://one:6379,two_b"),
        ("{cluster: [one], tls: {}}", "rediss+cluster://one"),
    ],
)
def test_what_a_mapping_says_is_shown_without_its_secrets(
    compiled: Callable[..., Loaded], written: str, shown: str
) -> None:
    config = compiled(BASE.replace("state:", f"state: {written}"), env=ENV).config
    assert config.store is not None
    assert shown_address(config.store) == shown
    assert "s3cr3t" not in repr(config)
    for name, secret in ENV.items():
        assert (f"${{{name}}}" in written) == (secret in config.secrets)
    assert sorted(passwords_of(config.store)) == sorted(
        secret for name, secret in ENV.items() if f"${{{name}}}" in written
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{}", "needs one of host, sentinel and cluster; write sentinel: {master: mymaster, "),
        ("{host: one, cluster: [two]}", "needs one of host, sentinel and cluster"),
        ("{cluster: [one], database: 1}", "has a database, and a Cluster has the first one alone"),
        ("{host: one, username: gw}", "has a username without a password"),
        ("{host: one, password: ''}", "password: is empty"),
        ("{host: one, password: '<password>'}", "password: is still a placeholder"),
        ("{host: one, database: first}", "database: a whole number is expected"),
        ("{host: 'redis://:s3cr3t@one'}", "host: is not a host with a port; write host, host:port or "),
        ("{host: 'one:port'}", "host: is not a host with a port"),
        ("{host: 'one/0'}", "host: is not a host with a port"),
        ("{host: 'o ne'}", "host: names a host that cannot exist"),
        ("{host: '___'}", "host: is still a placeholder"),
        ("{cluster: []}", "cluster: is empty: at least one entry is needed"),
        ("{cluster: [one, 'two:0']}", "cluster[1]: is not a host with a port"),
        ("{sentinel: {hosts: [one]}}", 'sentinel: "master" is missing'),
        ("{sentinel: {master: m, hosts: ''}}", "sentinel.hosts: is empty"),
        ("{sentinel: {master: m, hosts: [a], username: gw}}", "sentinel: has a username without a password"),
        ("{url: 'redis://:s3cr3t@one'}", "url: unknown key; known here: host, sentinel, cluster, "),
        ("{sentinels: [one]}", 'sentinels: unknown key; did you mean "sentinel"?'),
        (
            "{sentinel: {master_name: m, hosts: [a]}}",
            'sentinel.master_name: unknown key; did you mean "master"?',
        ),
        ("{startup_nodes: [one]}", 'startup_nodes: unknown key; did you mean "cluster"?'),
        ("{host: one, answer_seconds: 0}", "answer_seconds: it must be at least 0.1"),
        ("{host: one, answer_seconds: 60}", "answer_seconds: it must be at most 10"),
        ("{host: one, timeout: 2}", 'timeout: unknown key; did you mean "answer_seconds"?'),
        ("{host: one, socket_timeout: 2}", 'socket_timeout: unknown key; did you mean "answer_seconds"?'),
        ("{host: one, tls: maybe}", "tls: true or false is expected"),
        ("{host: one, tls: {ca: nowhere.pem}}", "tls.ca: names a file that does not exist"),
    ],
)
def test_mistakes_in_a_mapping(problems: Lines, written: str, said: str) -> None:
    found = problems(BASE.replace("state:", f"state: {written}"), env=ENV)
    assert any(
        each.startswith((f"gateway.yaml:3: state: {said}", f"gateway.yaml:3: state.{said}")) for each in found
    ), found
    assert "s3cr3t" not in "".join(found)


def test_a_private_key_has_a_certificate(problems: Lines, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.touch()
    (said,) = problems(BASE.replace("state:", f"state: {{host: one, tls: {{private_key: {key}}}}}"))
    assert said == "gateway.yaml:3: state.tls: has a private_key without its certificate"


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("one", ("one", 26379)),
        ("one:5", ("one", 5)),
        ("10.0.0.7:5", ("10.0.0.7", 5)),
        ("[::1]", ("::1", 26379)),
        ("[::1]:5", ("::1", 5)),
    ],
)
def test_a_host_may_have_a_port(host: str, found: tuple[str, int]) -> None:
    assert host_and_port(TypeAdapter(StoreHost).validate_python(host), 26379) == found


@pytest.mark.parametrize("how", [{"cluster": ["a"]}, {"host": "a"}])
def test_budgets_in_a_store_need_no_file(warnings: Lines, how: dict[str, Any], tmp_path: Path) -> None:
    text = BASE.replace("state:", f"state: {SharedStore(**how).model_dump(include=set(how), mode='json')}")
    (said,) = warnings(text + f"budget_file: {tmp_path / 'spent'}\n")
    assert said == "gateway.yaml:4: budget_file: has no effect: budgets are kept in Redis"
