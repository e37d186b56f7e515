"""mitmproxy's own commands and options, where its interface lacks types or facts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mitmproxy import command as theirs
from mitmproxy import optmanager, types

if TYPE_CHECKING:
    from collections.abc import Callable

    from mitmproxy.options import Options


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


def is_unset(options: Options, name: str) -> bool:
    """Whether an option is not set, not even to its default: not in a file, and not on the command line.

    mitmproxy's public interface shows only whether its value differs from the default.
    """
    option = options._options.get(name)
    return option is not None and option.value is optmanager.unset
