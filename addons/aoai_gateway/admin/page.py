"""The status page: one file, and the policy that lets a browser run nothing but what is in it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

HTML = Path(__file__).with_name("page.html").read_bytes()


def _hashes(tag: bytes) -> str:
    """Name the contents of all elements of a kind as CSP does (W3C CSP Level 3 §2.3.1)."""
    contents = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), HTML, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(each).digest()).decode() for each in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hashes(b'script')}",
        f"style-src {_hashes(b'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
