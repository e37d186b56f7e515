"""The process that counts tokens for pages: takes jobs from its standard input until that ends.

Its one argument is a folder of rank files, or "".
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from aoai_gateway.runtime import body_worker
from aoai_gateway.tokens import Counter, load_encodings
from aoai_gateway.workbench.counting import count


def main() -> None:
    """Load the encodings, and count until the input ends."""
    folder = Path(sys.argv[1]) if sys.argv[1] else None
    body_worker.main(partial(count, Counter(load_encodings(folder, environ={}))))
