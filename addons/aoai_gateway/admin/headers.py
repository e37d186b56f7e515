"""The headers of all that the status page and the workbench answer."""

from __future__ import annotations


def headers(content_security_policy: str) -> dict[str, str]:
    """Return those of a page with this policy: kept nowhere, framed by none, and taken for what it is."""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": content_security_policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "Server": "aoai-gateway",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
