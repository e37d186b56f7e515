"""The ``gateway.*`` commands of mitmproxy's console, of mitmweb's command bar and of its REST API.

They are mitmproxy commands like its own: flows are named as everywhere (``@focus``, ``@marked``, a filter),
and the prompt completes deployments, backends and formats. What they send goes the way of every call, through
access rules, quotas, routing and breaks, as the client that the flow's metadata names.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyperclip  # type: ignore[import-untyped]  # it has no types
from mitmproxy import contentviews, ctx, exceptions, flow, http
from mitmproxy.addons import export
from mitmproxy.log import ALERT
from mitmproxy.utils import asyncio_utils

from aoai_gateway.inspect import compare, picked_views, snippets
from aoai_gateway.inspect.client_replay import aimed, places, play
from aoai_gateway.inspect.picked_views import written
from aoai_gateway.runtime.log_records import log_exception
from aoai_gateway.runtime.mitmproxy_host import command, is_unset
from aoai_gateway.wire.gateway_error import GatewayError

if TYPE_CHECKING:
    from mitmproxy.addonmanager import Loader

    from aoai_gateway.engine.call import Setup
    from aoai_gateway.runtime.gateway import Gateway

logger = logging.getLogger(__name__)

EXPORTS = {"python": "openai-python", "js": "openai-js", "curl": "gateway-curl"}
"""How mitmproxy's own `export` commands call our formats."""

COLUMNS = ("path", "status", "time", "comment")
"""mitmweb's flow list: what is the same for all calls takes no room from what is told of each."""


class GatewayCommands:
    """Commands about calls. Loaded where a user can give them, never in the lean host."""

    name = "gatewaycommands"

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def load(self, loader: Loader) -> None:
        """Show comments in mitmweb's flow list, and offer our formats where mitmproxy exports flows."""
        if is_unset(ctx.options, "web_columns"):
            ctx.options.update(web_columns=list(COLUMNS))
        if "story" not in contentviews.registry:
            contentviews.add(picked_views.StoryContentview())
            contentviews.add(picked_views.ComparisonContentview())
            for language in snippets.FORMATS:
                contentviews.add(picked_views.SnippetContentview(language, partial(written, language)))
        for name, theirs in EXPORTS.items():
            export.formats[theirs] = partial(written, name)

    # --- looking -----------------------------------------------------------------------------------------

    @command("gateway.explain")
    def explain(self, flow: flow.Flow) -> Sequence[str]:
        """Every decision that was taken for a call, in order, with the time since its begin.

        For the flow of a failed attempt, it is the story of its call.
        """
        told = picked_views.story(flow) or self._story_of_call(flow)
        if not told:
            raise exceptions.CommandError(
                "No story was kept of this flow: it is still running, or was recorded without an inspector."
            )
        return told

    def _story_of_call(self, of: flow.Flow) -> list[str]:
        call, view = of.metadata.get("gateway_call"), ctx.master.addons.get("view")
        if call is None or view is None:
            return []
        same = (each for each in view if each.metadata.get("gateway_call") == call)
        return next((told for each in same if (told := picked_views.story(each))), [])

    # --- a call as code ----------------------------------------------------------------------------------

    @command("gateway.snippet.formats")
    def snippet_formats(self) -> Sequence[str]:
        """The formats of gateway.snippet and gateway.copy."""
        return list(snippets.FORMATS)

    @command("gateway.snippet", language="gateway.snippet.formats")
    def snippet(self, language: str, flow: flow.Flow) -> str:
        """A call as code for the openai SDK (python, js) or as curl; the key is an environment variable."""
        return written(language, flow)

    @command("gateway.copy", language="gateway.snippet.formats")
    def copy(self, language: str, flow: flow.Flow) -> None:
        """Copy a call as code (see gateway.snippet) to the clipboard of the machine mitmproxy runs on."""
        text = written(language, flow)
        try:
            pyperclip.copy(text)
        except pyperclip.PyperclipException:
            raise exceptions.CommandError(
                "This machine has no clipboard that mitmproxy can reach; gateway.snippet shows the code."
            ) from None
        logger.log(ALERT, "Copied %d lines of %s.", text.count("\n"), language)

    # --- sending again -----------------------------------------------------------------------------------

    @command("gateway.places")
    def places(self) -> Sequence[str]:
        """Where a call can be sent by hand: the virtual deployments, and the backends (standin@endpoint)."""
        return places(self._setup())

    @command("gateway.replay", where="gateway.places")
    def replay(self, flow: flow.Flow, where: str) -> None:
        """Send a copy of a call to another virtual deployment, or to one backend and no other."""
        copy = aimed(flow, where, self._setup())
        asyncio_utils.create_task(_played(copy), name="replay of a call", keep_ref=True)

    @command("gateway.compare")
    def compare(self, flows: Sequence[flow.Flow], *wheres: str) -> None:
        """Send calls to several deployments or backends, and lay the answers out side by side.

        Without deployments the flows, such as edits of one prompt, are compared where they went. The result
        is the response of a flow of its own.
        """
        setup = self._setup()
        comparison = compare.Comparison(compare.prepare(flows, wheres, setup), setup)
        comparison.start()
        logger.log(ALERT, "%s", comparison.flow.comment)

    def _setup(self) -> Setup:
        try:
            return self._gateway.in_force()
        except GatewayError as error:
            raise exceptions.CommandError(error.message) from None


async def _played(copy: http.HTTPFlow) -> None:
    try:
        await play(copy)
    except Exception as error:
        log_exception("in a replay; it was given up.", error)
