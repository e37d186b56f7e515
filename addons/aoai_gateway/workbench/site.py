"""The page's files, and the policy that a browser keeps: nothing from outside, and nothing that text can run.

With ``require-trusted-types-for`` a browser refuses every assignment of a string as HTML or script, so that
what prompts say can only ever be shown.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aoai_gateway.admin.answers import headers

FOLDER = Path(__file__).with_name("page")
INDEX = "index.html"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        "media-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

HEADERS = headers(CONTENT_SECURITY_POLICY)


@cache
def files() -> dict[str, tuple[str, bytes]]:
    """Return the page's files by name, each with its media type. They are small, and stay in memory."""
    return {
        path.relative_to(FOLDER).as_posix(): (f"{TYPES[path.suffix]}; charset=utf-8", path.read_bytes())
        for path in sorted(FOLDER.rglob("*"))
        if path.suffix in TYPES
    }
