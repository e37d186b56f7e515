"""What the rest of the gateway asks a configuration."""

import pytest
from pydantic import ValidationError

from aoai_gateway.config.models import Client, Config, Endpoint, StandinAtEndpoint, Timeouts


def endpoint(name: str, *virtual: tuple[str, list[str]], **more: object) -> dict[str, object]:
    deployments = [
        {
            "name": deployment,
            "standins": [{"name": standin.strip("-"), "enabled": "-" not in standin} for standin in standins],
        }
        for deployment, standins in virtual
    ]
    return {
        "name": name,
        "url": f"https://{name}.example/",
        "key": "k",
        "virtual_deployments": deployments,
    } | more


def config(*endpoints: dict[str, object], clients: tuple[dict[str, object], ...] = ()) -> Config:
    return Config.model_validate({"aoai": {"endpoints": endpoints}, "clients": clients})


def names(pool: tuple[StandinAtEndpoint, ...]) -> list[str]:
    return [backend.name for backend in pool]


def test_a_pool_spans_all_endpoints_in_the_order_written():
    made = config(
        endpoint("one", ("mini", ["m1"]), ("big", ["ptu", "paygo"])),
        endpoint("two", ("big", ["b2"]), ("small", ["s2"])),
    )
    assert names(made.pool("big")) == ["ptu@one", "paygo@one", "b2@two"]
    assert list(made.virtual_deployments) == ["mini", "big", "small"]


def test_what_is_switched_off_is_in_no_pool_but_stays_known():
    made = config(
        endpoint("one", ("big", ["-ptu", "paygo"]), ("small", ["-s"])),
        endpoint("two", ("big", ["b2"]), ("other", ["o"]), enabled=False),
    )
    assert names(made.pool("big")) == ["paygo@one"]
    assert made.pool("small") == ()
    assert made.knows("small")
    assert made.knows("other")


def test_without_virtual_deployments_every_endpoint_takes_every_name():
    made = config(
        endpoint("one"), endpoint("off", enabled=False), endpoint("two", non_streaming_fraction=0.5)
    )
    assert made.knows("anything")
    pool = made.pool("anything")
    assert names(pool) == ["one", "two"]
    assert [backend.standin for backend in pool] == [None, None]
    assert [backend.non_streaming_fraction for backend in pool] == [1, 0.5]
    assert [each.name for each in made.open_endpoints] == ["one", "two"]


def test_an_open_endpoint_among_others_takes_the_virtual_names_in_its_turn():
    made = config(endpoint("one", ("big", ["b1"])), endpoint("open"), endpoint("two", ("big", ["b2"])))
    assert names(made.pool("big")) == ["b1@one", "open", "b2@two"]
    assert not made.knows("anything")
    assert made.pool("anything") == ()


def test_switching_off_the_last_virtual_deployment_does_not_open_the_door():
    made = config(endpoint("one", ("big", ["b1"]), enabled=False), endpoint("open"))
    assert not made.knows("anything")
    assert names(made.pool("big")) == ["open"]


def test_a_backend_unpacks_into_endpoint_and_standin():
    ((place, standin),) = config(endpoint("one", ("big", ["b1"]))).pool("big")
    assert place.name == "one"
    assert standin is not None
    assert standin.name == "b1"


def test_a_client_is_found_by_each_of_its_keys():
    made = config(
        endpoint("one"), clients=({"name": "a", "key": ["old", "new"]}, {"name": "b", "key": "other"})
    )
    assert [found.name for key in ("old", "new", "other") if (found := made.client_for_key(key))] == [
        "a",
        "a",
        "b",
    ]
    for wrong in ("", "ol", "OLD", "old ", "\udce4"):
        assert made.client_for_key(wrong) is None


def test_a_client_that_is_switched_off_is_not_found():
    made = config(
        endpoint("one"),
        clients=(
            {"name": "a", "key": "k", "enabled": False, "uses_entra_id_auth": True},
            {"name": "b", "uses_entra_id_auth": True},
        ),
    )
    assert made.client_for_key("k") is None
    assert made.client_named("a") is None
    assert made.entra_client is made.client_named("b") is made.clients[1]


def test_keys_are_not_in_any_repr():
    made = config(endpoint("one", key="backend-s3cr3t"), clients=({"name": "a", "key": "client-s3cr3t"},))
    assert made.client_for_key("client-s3cr3t") is not None  # fills what is kept for looking up
    for text in (
        repr(made),
        str(made),
        repr(made.aoai.endpoints),
        repr(made.pool("x")),
        made.model_dump_json(),
    ):
        assert "s3cr3t" not in text


def test_keys_are_not_in_pydantics_own_errors():
    with pytest.raises(ValidationError) as caught:
        Client.model_validate({"name": "a", "key": "s3cr3t", "enabled": "s3cr3t"})
    assert "s3cr3t" not in str(caught.value)


def test_the_parts_of_an_endpoints_address():
    made = Endpoint(name="a", url="https://APIM.example/team/a/", key="k")
    assert (made.scheme, made.host, made.port, made.path_prefix) == ("https", "apim.example", 443, "/team/a")
    made = Endpoint(name="a", url="http://127.0.0.1:8081", key="k")
    assert (made.scheme, made.host, made.port, made.path_prefix) == ("http", "127.0.0.1", 8081, "")


def test_a_simulated_endpoint_has_no_address_before_it_is_started():
    made = config(
        {
            "name": "sim",
            "simulated": {"deployments": {"d": {"model": "gpt-4o"}}},
            "virtual_deployments": [{"name": "gpt-4o", "standins": [{"name": "d"}]}],
        }
    )
    assert list(made.simulated_endpoints) == ["sim"]
    with pytest.raises(ValueError, match="'sim' is simulated"):
        _ = made.aoai.endpoints[0].host
    started = made.with_simulators({"sim": "http://127.0.0.1:4711"}, {"sim": "k"})
    ((place, _standin),) = started.pool("gpt-4o")
    assert (place.host, place.port, place.simulated is not None) == ("127.0.0.1", 4711, True)
    assert made.aoai.endpoints[0].url is None


def test_a_changed_copy_forgets_what_was_derived():
    made = Endpoint(name="a", url="https://one.example", key="k")
    assert made.host == "one.example"
    assert made.but(url="https://two.example").host == "two.example"


def test_models_are_frozen_and_refuse_the_unknown():
    with pytest.raises(ValidationError):
        Client(name="a").name = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Client(name="a", nmae="b")  # type: ignore[call-arg]


def test_every_time_is_a_float():
    assert repr(Timeouts()) == "Timeouts(connect=15.0, read=None, write=None, pool=None)"


def test_the_model_of_a_virtual_deployment():
    first = endpoint("one", ("big", ["b1"]))
    second = {
        **endpoint("two"),
        "virtual_deployments": [{"name": "big", "model": "gpt-4o", "standins": [{"name": "x"}]}],
    }
    made = config(first, second)
    assert made.model_of("big") == "gpt-4o"
    assert made.model_of("nothing") is None
