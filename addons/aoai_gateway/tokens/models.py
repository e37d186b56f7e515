"""The published facts about a model's tokens: encoding, framing, image rule, the longest answer.

Azure deployment names are arbitrary, so callers pass the *base model*: from the configuration, or as
learned from a response's `model`. Encodings as in `tiktoken/model.py`; framing as in the OpenAI
cookbook's "How to count tokens with tiktoken"; image rules from Azure OpenAI's overview page and
OpenAI's vision guide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from aoai_gateway.tokens.images import ImageRule, Patches, Pixels, Tiles
from aoai_gateway.tokens.ranks import CL100K, O200K


@dataclass(frozen=True, slots=True)
class Family:
    """Models that are counted alike: all whose name is `name` or begins with it and a dash."""

    name: str
    encoding: str
    images: ImageRule
    per_message: int = 3
    per_name: int = 1
    per_function: int = 7
    framing_published: bool = False
    """Whether chat framing and tools follow a formula that its authors have checked against the service."""
    images_published: bool = False
    """Whether Azure documents the image rule."""

    encoding_published: bool = True
    """Whether `encoding` is the models' own. If not, it is the nearest thing at hand."""

    @property
    def known(self) -> bool:
        """Whether this is a model's family, not the assumption about every other model."""
        return self is not UNKNOWN


_GPT_4O = Tiles(85, 170)
_O1 = Tiles(75, 150)

# Of two names that match, the longer one holds. o200k_harmony (gpt-oss) has o200k_base's ranks and
# differs in special tokens only, which are never encoded here.
_FAMILIES = (
    Family("gpt-4o", O200K, _GPT_4O, framing_published=True, images_published=True),
    Family("gpt-4o-mini", O200K, Tiles(2833, 5667), framing_published=True, images_published=True),
    Family("chatgpt-4o", O200K, _GPT_4O, framing_published=True, images_published=True),
    Family("gpt-4.1", O200K, _GPT_4O),
    Family("gpt-4.1-mini", O200K, Patches(1.62)),
    Family("gpt-4.1-nano", O200K, Patches(2.46)),
    Family("gpt-4.5", O200K, _GPT_4O),
    Family("gpt-5", O200K, Tiles(70, 140)),
    Family("gpt-5-mini", O200K, Patches(1.62)),
    Family("gpt-5-nano", O200K, Patches(2.46)),
    Family("gpt-5.", O200K, Patches(1.2)),  # gpt-5.2, gpt-5.4-mini, …: the dot stands for the dash
    Family("gpt-oss", O200K, _GPT_4O),
    Family("o1", O200K, _O1),
    Family("o3", O200K, _O1),
    Family("o4-mini", O200K, Patches(1.72)),
    Family("gpt-4", CL100K, _GPT_4O, per_function=10, framing_published=True, images_published=True),
    Family("gpt-3.5", CL100K, _GPT_4O, per_function=10, framing_published=True),
    Family("gpt-35", CL100K, _GPT_4O, per_function=10, framing_published=True),  # Azure's spelling
    Family("gpt-3.5-turbo-0301", CL100K, _GPT_4O, per_message=4, per_name=-1, framing_published=True),
    Family("gpt-35-turbo-0301", CL100K, _GPT_4O, per_message=4, per_name=-1, framing_published=True),
    Family("text-embedding-ada-002", CL100K, _GPT_4O),
    Family("text-embedding-3-small", CL100K, _GPT_4O),
    Family("text-embedding-3-large", CL100K, _GPT_4O),
    Family("davinci-002", CL100K, _GPT_4O),
    Family("babbage-002", CL100K, _GPT_4O),
)
CLAUDE = Family("claude", O200K, Pixels(750, longest=1568, most=1600), encoding_published=False)
"""Anthropic's models, whose tokenizer is not published."""

_LONGEST_FIRST = tuple(sorted((*_FAMILIES, CLAUDE), key=lambda family: len(family.name), reverse=True))

UNKNOWN = Family("unknown", O200K, _GPT_4O)
"""Every model since 2024 uses o200k_base; another vendor's model is off by some percent."""


def family_of(model: str | None) -> Family:
    """The family of a base model's name; snapshots and fine-tunes included, `UNKNOWN` if none matches.

    Fine-tunes are spelled `ft:gpt-4o-2024-08-06:org::id` by OpenAI and `gpt-4o-2024-08-06.ft-…` by Azure.
    """
    if not isinstance(model, str):
        return UNKNOWN
    name = model.strip().lower().removeprefix("ft:").partition(":")[0].partition(".ft-")[0]
    for family in _LONGEST_FIRST:
        if name.startswith(family.name) and (
            len(name) == len(family.name) or family.name.endswith(".") or name[len(family.name)] == "-"
        ):
            return family
    return UNKNOWN


_MOST_OUTPUT = {
    "codex-mini": 100_000,
    "gpt-3": 4_096,
    "gpt-4": 8_192,
    "gpt-4-32k": 32_768,
    "gpt-4-turbo": 4_096,
    "gpt-4.1": 32_768,
    "gpt-4.5": 16_384,
    "gpt-4o": 16_384,
    "gpt-5": 128_000,
    "gpt-5-chat": 16_384,
    "gpt-oss": 131_072,
    "o1": 100_000,
    "o1-mini": 65_536,
    "o1-preview": 32_768,
    "o3": 100_000,
    "o4-mini": 100_000,
}
"""The tokens of one answer at most, by the beginning of a model's name, of which the longest counts.

From "Azure OpenAI models" in Microsoft's documentation, column "Max output tokens"; of several versions of a
model the largest.
"""

UNKNOWN_MOST = 16_384
"""Tokens, of a model that is not known."""


@lru_cache(maxsize=1024)
def most_output_tokens(model: str | None) -> int:
    """Return the tokens that one answer of a base model can have, reasoning included."""
    name = (model or "").strip().lower()
    known = [prefix for prefix in _MOST_OUTPUT if name.startswith(prefix)]
    return _MOST_OUTPUT[max(known, key=len)] if known else UNKNOWN_MOST
