"""How the workbench gets into a process: beside mitmweb's pages, or on the admin listener."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from mitmproxy import ctx
from mitmproxy.addons.intercept import Intercept

from aoai_gateway.inspect import client_replay, response_intercept
from aoai_gateway.workbench.access import ListenerAccess, MitmwebAccess
from aoai_gateway.workbench.bench import Bench
from aoai_gateway.workbench.calls import Calls
from aoai_gateway.workbench.case_files import CaseFiles
from aoai_gateway.workbench.handlers import rules
from aoai_gateway.workbench.runs import Runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mitmproxy.addonmanager import AddonManager
    from mitmproxy.addons.view import View
    from mitmproxy.flow import Flow
    from tornado.routing import Rule
    from tornado.web import Application

    from aoai_gateway.admin.guard import Tokens
    from aoai_gateway.runtime.gateway import Gateway

FOLDER = "prompt-sets"
"""Beside the configuration file, if the configuration names no other folder."""


class QuietIntercept(Intercept):
    """mitmproxy's, which copies its options for each event of a call even if nothing is to be held."""

    name = "intercept"  # it stands for mitmproxy's, and is looked for by its name
    gateway_asks = True  # it reads flows for a filter, which is the workbench's

    def should_intercept(self, f: Flow) -> bool:
        """Whether a flow is to be held."""
        return self.filt is not None and super().should_intercept(f)

    def request(self, f: Flow) -> None:
        """Hold a request, if it is to be."""
        if self.filt is not None:
            self.process_flow(f)

    def response(self, f: Flow) -> None:
        """Hold an answer, if it is to be."""
        if self.filt is not None:
            self.process_flow(f)


def extend(application: Application, gateway: Gateway, addons: AddonManager) -> None:
    """Have mitmweb serve it; again, after a reload, changes nothing."""
    if addons.get(Calls.name) is None:
        bench = _bench(gateway, addons, cast("View | None", addons.get("view")))
        application.add_handlers(r".*", list(rules(bench, MitmwebAccess())))


def on_listener(
    gateway: Gateway, addons: AddonManager, tokens: Tokens
) -> Sequence[Rule | tuple[object, ...]]:
    """Return the rules for the admin listener of a process without mitmweb; empty if it has them already."""
    if addons.get(Calls.name) is not None:
        return ()
    if addons.get("clientplayback") is None:
        client_replay.install(gateway)
    if addons.get("intercept") is None:
        addons.add(QuietIntercept())
    bench = _bench(gateway, addons, cast("View | None", addons.get("view")))
    response_intercept.install(gateway, addons)
    # Without it streamed answers would be empty.
    ctx.options.update(store_streamed_bodies=True)
    return rules(bench, ListenerAccess(tokens))


def _bench(gateway: Gateway, addons: AddonManager, view: View | None) -> Bench:
    calls = Calls(view, gateway.say)

    def listen(addon: object) -> None:
        addons.add(addon)
        gateway.look_for_listeners(addons)

    runs = Runs(listen)
    bench = Bench(gateway, calls, runs, CaseFiles(lambda: _folder(gateway)))
    addons.add(calls, bench.counting)
    return bench


def _folder(gateway: Gateway) -> Path:
    chosen = gateway.setup.config.workbench.sets if gateway.setup is not None else None
    return chosen or Path(gateway.config_file or "gateway.yaml").absolute().parent / FOLDER
