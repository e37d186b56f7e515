"""Pools, as a configuration says."""

from __future__ import annotations

from aoai_gateway.config.models import Aoai, Config, Endpoint, Standin, VirtualDeployment
from aoai_gateway.routing.backends import BackendKey, RoutingTable
from tests.engine_driver import config


def endpoint(name: str, **pools: list[Standin]) -> Endpoint:
    virtual = tuple(VirtualDeployment(name=d.replace("_", "-"), standins=tuple(s)) for d, s in pools.items())
    url = f"https://{name}.example/"
    return Endpoint(name=name, url=url, key=f"key-of-{name}", virtual_deployments=virtual)


def table(*endpoints: Endpoint) -> RoutingTable:
    return RoutingTable(Config(aoai=Aoai(endpoints=endpoints)))


def names(pool: tuple[object, ...] | None) -> list[str] | None:
    return None if pool is None else [b.name for b in pool]  # type: ignore[attr-defined]


def test_one_deployment_at_several_endpoints_is_one_pool() -> None:
    here = table(
        endpoint("a", gpt=[Standin(name="ptu"), Standin(name="paygo")]),
        endpoint("b", small=[Standin(name="mini")], gpt=[Standin(name="gpt")]),
    )
    assert names(here.pool("gpt")) == ["ptu@a", "paygo@a", "gpt@b"]
    assert names(here.pool("small")) == ["mini@b"]
    assert here.deployments == ("gpt", "small")


def test_unknown_deployments_have_no_pool() -> None:
    assert table(endpoint("a", gpt=[Standin(name="gpt")])).pool("other") is None


def test_endpoints_without_virtual_deployments_take_any() -> None:
    here = table(endpoint("a"), endpoint("b"))
    pool = here.pool("whatever") or ()
    assert names(pool) == ["a", "b"]
    assert pool[0].key == BackendKey("a", "")
    assert pool[0].deployment("whatever") == "whatever"
    assert here.deployments == ()


def test_an_open_endpoint_among_others_takes_their_deployments() -> None:
    here = table(endpoint("a", gpt=[Standin(name="ptu")]), endpoint("b"))
    pool = here.pool("gpt") or ()
    assert names(pool) == ["ptu@a", "b"]
    assert [b.deployment("gpt") for b in pool] == ["ptu", "gpt"]
    assert here.pool("other") is None


def test_what_is_switched_off_is_not_there() -> None:
    off = endpoint("b", gpt=[Standin(name="gpt")]).but(enabled=False)
    here = table(endpoint("a", gpt=[Standin(name="ptu", enabled=False)]), off)
    assert here.pool("gpt") == ()
    assert here.backends == ()


def test_a_standin_of_two_deployments_has_one_name_and_two_roles() -> None:
    """Breaks are shared by name; what the configuration says of a role is not."""
    here = table(
        endpoint(
            "a",
            chat=[Standin(name="s", non_streaming_fraction=0.2, tokens_per_minute=10)],
            batch=[Standin(name="s")],
        ),
        endpoint("b", chat=[Standin(name="t")]),
    )
    (chat, _), (batch,) = here.pool("chat") or (), here.pool("batch") or ()
    assert chat.key == batch.key
    assert (chat.non_streaming_fraction, batch.non_streaming_fraction) == (0.2, 1)
    assert batch.standin is not None
    assert batch.standin.tokens_per_minute is None
    assert names(here.backends) == ["s@a", "t@b"], "listed once"


def test_a_repr_holds_no_key() -> None:
    assert repr(RoutingTable(config("ptu@a")).backends) == "(Backend(ptu@a),)"
