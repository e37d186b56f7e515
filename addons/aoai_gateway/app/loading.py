"""The configuration that a command names: its option, found, loaded, and checked against this machine."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aoai_gateway.command_line import PROGRAM, UsageError

if TYPE_CHECKING:
    import argparse

    from aoai_gateway.config.loader import Loaded
    from aoai_gateway.config.models import Config


CHECKOUT = Path(__file__).resolve().parents[3]
"""Where ``gateway.yaml``, ``addons/gateway.py`` and ``tests/`` lie when the package runs from a checkout."""


class StartError(Exception):
    """The command line is right, but the command can't do its work."""


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE``."""
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: the checkout's gateway.yaml)"
    )


def existing_config(given: str | None) -> Path:
    """Return the path of the file to use, by default the checkout's. Raises UsageError if there is none."""
    path = Path(os.path.expanduser(given)) if given else CHECKOUT / "gateway.yaml"
    if path.is_file():
        return path
    if given is None:
        raise UsageError(f"there is no {path}. Say which configuration to use: --config FILE")
    what = "is a directory; name the file in it" if path.is_dir() else "does not exist"
    raise UsageError(f"the configuration {given} {what}.")


def load_config(path: Path) -> Loaded:
    """Load a configuration. Raises StartError, after all that is wrong with it was printed."""
    from aoai_gateway.config.loader import ConfigErrors, load

    try:
        return load(path, env=os.environ)
    except ConfigErrors as errors:
        for problem in errors.problems:
            print(problem, file=sys.stderr)
        for warning in errors.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        count = len(errors.problems)
        if errors.rest is not None:
            count += _tell_of_the_machine(errors.rest, {problem.path for problem in errors.problems})
        raise StartError(f"{count} error{'s' if count != 1 else ''} in the configuration.") from None


def _tell_of_the_machine(config: Config, broken: set[str]) -> int:
    """Say what this machine lacks for the sections without problems, and return how many things these are."""
    from aoai_gateway.app import start_checks

    sections = {re.split(r"[.\[]", path)[0] for path in broken}
    told = start_checks.errors(config) + start_checks.ports(config)[0]
    found = [each for each in told if re.split(r"[.:]", each)[0] not in sections]
    for each in found:
        print(each, file=sys.stderr)
    return len(found)


def check_start(config: Config, *, workers: int = 1, listening: bool = False) -> None:
    """Check that this machine can serve the configuration; a certificate that expires soon is a warning.

    ``workers``: processes that are to serve it. ``listening``: check the ports that it names, too.
    """
    from aoai_gateway.app import start_checks

    found = start_checks.errors(config, workers=workers)
    warnings = start_checks.warnings(config)
    if listening:
        refused, taken = start_checks.ports(config)
        found, warnings = found + refused, warnings + taken
    for warning in warnings:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    if found:
        raise StartError("\n".join(found))
