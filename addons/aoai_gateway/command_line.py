"""What all commands' parsers have in common: a mistake is an exception, and does not end the process."""

from __future__ import annotations

import argparse
from typing import NoReturn

PROGRAM = "aoai-gateway"


class UsageError(Exception):
    """The command line is wrong; the text names the fault and the remedy."""


class Parser(argparse.ArgumentParser):
    """argparse's, which raises `UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(f"{message}\n{self.format_usage().rstrip()}")


def parser_of(command: str, description: str, *, epilog: str | None = None) -> argparse.ArgumentParser:
    """Make a command's parser, which raises `UsageError`."""
    return Parser(prog=f"{PROGRAM} {command}", description=description, epilog=epilog, allow_abbrev=False)
