"""What is loaded where a user looks on (mitmweb, mitmproxy), and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aoai_gateway.inspect.response_intercept import ResponseIntercept
from aoai_gateway.inspect.retention import Retention

if TYPE_CHECKING:
    from mitmproxy.addonmanager import AddonManager
    from mitmproxy.addons.intercept import Intercept
    from mitmproxy.addons.view import View
    from mitmproxy.flow import Flow

    from aoai_gateway.runtime.gateway import Gateway


def install(gateway: Gateway, addons: AddonManager) -> None:
    """Add what a flow list and holding need, as far as they are there; once, however often it is called."""
    view = cast("View | None", addons.get("view"))
    if view is not None and addons.get(Retention.name) is None:

        def is_looked_at(flow: Flow) -> bool:
            # In mitmweb it is the browser that knows.
            return addons.get("consoleaddon") is not None and view.focus.flow is flow

        addons.add(Retention(view, is_looked_at))
    intercept = cast("Intercept | None", addons.get("intercept"))
    if intercept is not None:
        gateway.is_held = intercept.should_intercept
        if addons.get(ResponseIntercept.name) is None:
            addons.add(ResponseIntercept(gateway))
