"""Words of the command line: how they are read, and what is wrong with them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

MOST_WORKERS = 64


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE``."""
    parser.add_argument(
        "--config", metavar="FILE", help="the configuration (default: the checkout's gateway.yaml)"
    )


def port_number(text: str) -> int:
    """Read a port; 0 is a free one."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number up to 65535 is, or 0 for a free one")
    return int(text)


def worker_count(text: str) -> int:
    """Read a number of workers; ``auto`` is one for each core."""
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_WORKERS):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers: 1 to {MOST_WORKERS} is, or auto")
    return int(text)


def capture_file(text: str) -> Path:
    """Read the name of a file that can be written."""
    path = Path(os.path.expanduser(text)).absolute()
    try:
        # A fault is to be reported now, and not when the first call is lost.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None
    return path
