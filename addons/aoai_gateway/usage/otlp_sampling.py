"""Which calls have spans: by the client's ``traceparent``, and by OpenTelemetry's variables for the others.

W3C Trace Context, section 3.2; OpenTelemetry's specification, "General SDK Configuration".
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

_TRACEPARENT = re.compile(r"\s*([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\s*", re.ASCII)

SAMPLED = 1


@dataclass(frozen=True, slots=True)
class Parent:
    """The span that a client's call belongs to."""

    trace: bytes
    parent: bytes
    sampled: bool


def read_traceparent(said: str | None) -> Parent | None:
    """Read the header ``traceparent``; None if there is none of use."""
    found = _TRACEPARENT.fullmatch(said) if said else None
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(parent, 16):
        return None
    return Parent(bytes.fromhex(trace), bytes.fromhex(parent), bool(int(flags, 16) & SAMPLED))


@dataclass(frozen=True, slots=True)
class Sampler:
    """``share`` of the traces that begin here; those of clients as they say, unless it is not ``parents``."""

    share: float = 1.0
    parents: bool = True

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Sampler:
        """Make the one that ``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_SAMPLER_ARG`` ask for."""
        name = environment.get("OTEL_TRACES_SAMPLER", "").strip().casefold() or "parentbased_always_on"
        kind = name.removeprefix("parentbased_")
        share = {"always_on": 1.0, "always_off": 0.0, "traceidratio": _share(environment)}.get(kind)
        if share is None:
            logger.warning("OTEL_TRACES_SAMPLER is %r, which is not known here; all calls have spans.", name)
            return cls()
        return cls(share, name != kind)

    def takes(self, trace: bytes, parent: bool | None) -> bool:
        """Whether a trace is exported. ``parent``: whether the client samples it, if it says so."""
        if parent is not None and self.parents:
            return parent
        # As OpenTelemetry's SDKs do it, so that all programs of a trace agree.
        return self.share >= 1 or int.from_bytes(trace[8:]) < self.share * (1 << 64)


def _share(environment: Mapping[str, str]) -> float:
    try:
        return min(1.0, max(0.0, float(environment.get("OTEL_TRACES_SAMPLER_ARG", "1"))))
    except ValueError:
        return 1.0
