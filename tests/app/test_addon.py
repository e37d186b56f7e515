"""What the addon does to the mitmproxy that it is loaded into."""

from __future__ import annotations

import pytest
from mitmproxy import contentviews
from mitmproxy.addons.dumper import Dumper
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.view import View
from mitmproxy.contentviews._registry import ContentviewRegistry
from mitmproxy.test import taddons

from aoai_gateway.app.addon import GatewayAddon


class Viewless:
    """Any other addon."""


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> ContentviewRegistry:
    registry = ContentviewRegistry()
    monkeypatch.setattr(contentviews, "registry", registry)
    return registry


def load(context: taddons.context, addon: GatewayAddon) -> None:
    from mitmproxy.addonmanager import Loader

    addon.load(Loader(context.master))


@pytest.mark.parametrize(
    ("other", "views", "stores"), [(View, 7, True), (Dumper, 7, False), (Viewless, 0, False)]
)
def test_who_gets_to_see_prompts(
    other: type, views: int, stores: bool, registry: ContentviewRegistry
) -> None:
    addon = GatewayAddon()
    with taddons.context(Proxyserver(), other()) as context:
        load(context, addon)
        assert len(registry) == views
        assert addon.lifecycle.inspected == bool(views)
        assert ("gateway.explain" in context.master.commands.commands) == bool(views)
        assert context.options.store_streamed_bodies is stores


def test_who_says_that_streams_are_not_to_be_stored_is_obeyed() -> None:
    with taddons.context(Proxyserver(), View()) as context:
        context.options.set("store_streamed_bodies=false")
        load(context, GatewayAddon())
        assert context.options.store_streamed_bodies is False


def test_it_can_be_loaded_again() -> None:
    addon = GatewayAddon()
    with taddons.context(Proxyserver(), View()) as context:
        load(context, addon)
        load(context, addon)
        assert context.master.addons.get("gatewaylifetime") is addon.lifecycle
