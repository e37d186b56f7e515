"""The headers of all answers of the status page and the workbench."""

from __future__ import annotations


def headers(content_security_policy: str) -> dict[str, str]:
    """Return the headers of a page with this policy: no cache keeps it, and no other page frames it."""
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
