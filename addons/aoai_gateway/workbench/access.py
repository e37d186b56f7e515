"""Who may use the workbench. Both places that it is served in have their own keys; it asks for no others."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Protocol

from aoai_gateway.admin import guard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tornado.web import RequestHandler

NO_PROMPTS = guard.Refusal(
    403, "This token may not read prompts. In the section admin, prompts: true allows it."
)
MITMWEB_REFUSAL = guard.Refusal(401, "Show mitmweb's password, or the token that its log shows.")


class Access(Protocol):
    """Decides about requests."""

    def may_see(self, handler: RequestHandler) -> guard.Refusal | None:
        """Return why a request may not see what is here; None if it may."""

    def may_change(self, handler: RequestHandler) -> guard.Refusal | None:
        """Return why a request may not change or send anything; None if it may."""

    def name_of(self, handler: RequestHandler) -> str:
        """Name who asks, as far as the key tells; "" where it does not."""


class ListenerAccess:
    """The admin listener's: its tokens, or, without one, requests of this machine."""

    def __init__(self, tokens: guard.Tokens) -> None:
        self._tokens = tokens

    def may_see(self, handler: RequestHandler) -> guard.Refusal | None:
        """As the status page, and with a token that may read prompts."""
        names = _names(handler)
        holder = guard.holder_of(names, self._tokens)
        return guard.may_see(names, self._tokens) or (NO_PROMPTS if holder and not holder.prompts else None)

    def may_change(self, handler: RequestHandler) -> guard.Refusal | None:
        """As the status page's controls, and with a token that may read prompts."""
        return self.may_see(handler) or guard.may_change(_names(handler), self._tokens)

    def name_of(self, handler: RequestHandler) -> str:
        """Return the name of the token's holder."""
        holder = guard.holder_of(_names(handler), self._tokens)
        return holder.name if holder is not None else ""


class MitmwebAccess:
    """mitmweb's: the cookie that it has given to a browser, or its password as a bearer token."""

    def may_see(self, handler: RequestHandler) -> guard.Refusal | None:
        """As mitmweb's own pages. A password that is right is exchanged for mitmweb's cookie."""
        settings = handler.application.settings
        cookie = settings["auth_cookie_name"]()
        given = handler.get_signed_cookie(cookie, min_version=2)
        if given is not None and hmac.compare_digest(given, b"y"):
            return None
        kind, _, shown = handler.request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not settings["is_valid_password"](shown.strip()):
            return MITMWEB_REFUSAL
        handler.set_signed_cookie(cookie, b"y", expires_days=400, httponly=True, samesite="Strict")
        return None

    def may_change(self, handler: RequestHandler) -> guard.Refusal | None:
        """Allow changes from this very page only: browsers add a cookie to requests of other pages, too."""
        return self.may_see(handler) or guard.is_own_page(_names(handler))

    def name_of(self, handler: RequestHandler) -> str:
        """Return nothing: mitmweb knows one password."""
        return ""


def _names(handler: RequestHandler) -> Mapping[str, str]:
    return {name.lower(): value for name, value in handler.request.headers.items()}
