"""``aoai-gateway key new NAME``: makes a client's key, of which the configuration holds a hash only."""

from __future__ import annotations

import argparse
import json
import secrets
from typing import TYPE_CHECKING

from aoai_gateway.config.clients import NotAfter, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RANDOM_BYTES = 32
"""The size of a key whose hash can be public: 256 bits cannot be guessed."""

PREFIX = "gw-"
"""The prefix by which people and scanners for secrets recognise a key."""


def new_key() -> str:
    """Make a key."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def main(words: Sequence[str], make_parser: Callable[..., argparse.ArgumentParser]) -> int:
    """Run ``key new``."""
    parser = make_parser("key", "Make keys for clients.")
    actions = parser.add_subparsers(required=True, metavar="new", dest="action")
    new = actions.add_parser("new", help="make a key, and print it once with the lines to paste")
    new.add_argument("name", metavar="NAME", help="the client's name")
    new.add_argument("--not-after", metavar="DATE", type=_date, help="the last day on which it counts (UTC)")
    args = parser.parse_args(words)
    key = new_key()
    print(f"The key of {args.name}; it is shown only now:\n\n  {key}\n")
    print("In the configuration, under clients:\n")
    print(f"  - name: {json.dumps(args.name, ensure_ascii=False)}")
    print(f"    key_sha256: {digest_of(key).hex()}")
    if args.not_after is not None:
        print(f"    not_after: {args.not_after}")
    return 0


def _date(text: str) -> str:
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(NotAfter).validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error.errors()[0]['msg']}") from None
    return text
