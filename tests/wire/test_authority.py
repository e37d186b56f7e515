"""Hosts and ports as URLs have them."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from aoai_gateway.wire.authority import authority, reachable


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "fe80::1"])
def test_a_url_has_the_host_and_port_that_it_was_made_of(host: str) -> None:
    found = urlsplit(f"http://{authority(host, 8080)}/")
    assert (found.hostname, found.port) == (host, 8080)
    assert urlsplit(f"http://{authority(host)}/").hostname == host


@pytest.mark.parametrize(
    ("listens", "reached"),
    [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.1", "10.0.0.1"), ("::2", "::2")],
)
def test_what_listens_on_every_address_is_reached_by_loopback(listens: str, reached: str) -> None:
    assert reachable(listens) == reached
