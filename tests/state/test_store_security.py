"""TLS with an authority of its own, certificates of clients, passwords: a server, Sentinels, a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest

from aoai_gateway.config.shared_store import SharedStore
from aoai_gateway.quota.quotas import Quota, Reservation
from aoai_gateway.state import StateUnavailableError
from aoai_gateway.state.exchange import Exchange
from aoai_gateway.state.redis import RedisState
from tests.e2e import certificates
from tests.e2e.processes import eventually
from tests.redis_groups import Cluster, Sentinels
from tests.redis_server import RedisServer, Security, require_redis

PASSWORD = "s3cret-of-the-store"
OF_SENTINELS = "s3cret-of-sentinels"

type Servers = RedisServer | Sentinels | Cluster


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> Security:
    return Security(certificates.make(tmp_path_factory.mktemp("certificates")), PASSWORD)


@pytest.fixture(scope="module", params=["server", "sentinels", "cluster"])
def servers(
    request: pytest.FixtureRequest, security: Security, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    require_redis()
    folder = tmp_path_factory.mktemp(request.param)
    made: Servers
    if request.param == "server":
        made = RedisServer(folder, security=security)
    elif request.param == "sentinels":
        made = Sentinels(folder, count=1, security=security, password=OF_SENTINELS)
    else:
        made = Cluster(folder, "gw", security=security)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def ask(state: dict[str, Any]) -> str:
    """Use a store for a decision and for what processes tell each other; returns what is said if it fails."""

    async def run() -> str:
        store = SharedStore.model_validate(state)
        counters = RedisState(store, prefix="gw", timeout=5)
        exchange = Exchange(store, "gw", "one")
        try:
            reservation = Reservation("one", "team", (Quota(None, 1000),), 10)
            assert (await counters.reserve(reservation)).admitted
            await exchange.tell([], 1.0)
            await exchange.news(wait=False)
        except StateUnavailableError as error:
            return str(error)
        finally:
            await counters.aclose()
            await exchange.aclose()
        return ""

    return asyncio.run(run())


def test_who_has_all_of_it_is_answered(servers: Servers) -> None:
    # The first handshakes may take more than a second on a busy machine.
    eventually(lambda: not ask(servers.state), "an answer")


def without_ca(state: dict[str, Any]) -> None:
    del state["tls"]["ca"]


def without_certificate(state: dict[str, Any]) -> None:
    del state["tls"]["certificate"], state["tls"]["private_key"]


def without_tls(state: dict[str, Any]) -> None:
    del state["tls"]


def without_password(state: dict[str, Any]) -> None:
    del state["password"]


def with_another_password(state: dict[str, Any]) -> None:
    state["password"] = f"not-{PASSWORD}"


def with_another_password_of_the_sentinels(state: dict[str, Any]) -> None:
    state.get("sentinel", state)["password"] = f"not-{OF_SENTINELS}"


@pytest.mark.parametrize(
    "change",
    [
        with_another_password_of_the_sentinels,
        without_ca,
        without_certificate,
        without_tls,
        without_password,
        with_another_password,
    ],
)
def test_who_lacks_a_part_is_not_and_is_told_no_secret(
    servers: Servers, change: Callable[[dict[str, Any]], None]
) -> None:
    state = deepcopy(servers.state)
    change(state)
    said = ask(state)
    assert said.startswith(SharedStore.model_validate(state).address)
    if change in (with_another_password, with_another_password_of_the_sentinels):
        assert "AuthenticationError" in said or "invalid username-password pair" in said
    assert PASSWORD not in said
    assert OF_SENTINELS not in said
