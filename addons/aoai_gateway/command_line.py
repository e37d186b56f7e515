"""What all commands have in common: parsers, whose mistakes are exceptions, and how more is installed."""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

PROGRAM = "aoai-gateway"


STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""Python's standard files with their modes, in the order of their numbers."""


def prepare_standard_files() -> None:
    """Have all three standard files, and standard output take any text.

    Those that are closed become the null device: else the next file or connection would have their number,
    and get what is printed. A terminal may know fewer characters than names have, and what a model or client
    has made up may hold halves of surrogate pairs, which no terminal takes: there are escapes for them.
    """
    # The system gives the lowest number that is free.
    while (number := os.open(os.devnull, os.O_RDWR)) < len(STANDARD):
        os.set_inheritable(number, True)
    os.close(number)
    for number, (name, mode) in enumerate(STANDARD):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


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


def whole_number(least: int, most: int, noun: str) -> Callable[[str], int]:
    """Return what reads a whole number of this range. ``noun``: of a refusal, with the range in words."""

    def read(text: str) -> int:
        # More digits than that are refused by Python itself, in words of its own.
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no {noun}")
        return int(text)

    return read


def installs(extra: str) -> str:
    """Return the command that installs what an extra of this package brings, for this very Python.

    It names the packages themselves: from an index, ``aoai-gateway[…]`` would be any package of that name.
    """
    # Loaded where it is needed: commands are to start quickly.
    from importlib.metadata import PackageNotFoundError, requires

    try:
        wanted = requires(PROGRAM) or []
    except PackageNotFoundError:  # it runs from a folder that was not installed
        wanted = []
    rows = [(name.strip(), marker) for name, _, marker in (each.partition(";") for each in wanted)]
    found = [name for name, marker in rows if marker.replace("'", '"').strip() == f'extra == "{extra}"']
    return shlex.join([sys.executable, "-m", "pip", "install", *(found or [f".[{extra}]"])])
