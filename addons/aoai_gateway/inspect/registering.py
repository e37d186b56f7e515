"""mitmproxy's command decorators, with types, and in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mitmproxy import command as theirs
from mitmproxy import types

if TYPE_CHECKING:
    from collections.abc import Callable


def command[**P, R](name: str, **choices: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a method a mitmproxy command.

    Args:
        name: how users call it.
        choices: by argument, the command that lists its values; the prompt completes them, and no other is
            taken.

    """

    def register(method: Callable[P, R]) -> Callable[P, R]:
        made: Any = method
        for argument, values in choices.items():
            made = theirs.argument(argument, type=types.Choice(values))(made)
        registered: Callable[P, R] = theirs.command(name)(made)
        return registered

    return register
