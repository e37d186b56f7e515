"""Priority classes: which calls are served first when there is not enough for all.

The order in which classes are written is their rank. A configuration without any has one class for
all calls, which does not wait, leaves nothing free and has the breaks of the section ``breaks``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from aoai_gateway.config.fields import Count, Fraction, Model, Name, Seconds, fault

IMPLICIT = "default"
"""The name of the one class where none is written down."""


@dataclass(frozen=True, slots=True)
class BreakLengths:
    """How long a break lasts, in seconds: a hint times the multiplier, between the floor and the ceiling."""

    default: float
    floor: float
    ceiling: float
    multiplier: float = 1.0

    def length(self, hint: float | None) -> float:
        """Turn a backend's hint (None: it gave none) into a break."""
        wanted = (self.default if hint is None else hint) * self.multiplier
        return min(max(wanted, self.floor), self.ceiling)


@dataclass(frozen=True, slots=True)
class PriorityClass:
    """One class as the gateway uses it: every default filled in."""

    name: str
    rank: int
    """0 is the highest."""
    breaks: BreakLengths
    wait_seconds: float = 0.0
    """Seconds for which a request may wait in the queue; 0: it does not wait."""
    wait_length: int = 0
    """How many requests of the class may wait at once, per virtual deployment; 0: none."""
    leave_free: float = 0.0
    """The share of each backend's capacity that is left to higher classes."""
    may_use_provisioned: bool = True
    may_spill: bool = True
    minimum_share: float = 0.0
    """The share of the queue's releases that are its own while it waits."""
    wait_bytes: int = 256 * 1024 * 1024
    """How many bytes of their bodies may wait at once, per virtual deployment."""

    @property
    def may_wait(self) -> bool:
        """Whether its requests may wait in the queue at all."""
        return self.wait_seconds > 0 and self.wait_length > 0

    def may_use(self, *, provisioned: bool, beside_provisioned: bool) -> bool:
        """Return whether a backend is open to the class.

        ``beside_provisioned``: whether a provisioned backend is in the same pool. Only there is a
        pay-as-you-go backend one to spill to; elsewhere it is all there is.
        """
        if provisioned:
            return self.may_use_provisioned
        return self.may_spill or not beside_provisioned


class Wait(Model):
    """How requests wait in the queue, for capacity, instead of being refused."""

    seconds: Seconds
    """Seconds that one request may wait; without `wait`, requests of the class do not wait."""
    length: Count = 500
    """Requests that may wait at once, for each virtual deployment."""
    megabytes: Count = 256
    """Megabytes that the bodies of these may have together."""


class MayUse(Model):
    """Which kinds of backends a class may use."""

    provisioned: bool = True
    """Whether it may use standins with `provisioned: true`."""
    spill: bool = True
    """Whether it may use the pay-as-you-go standins beside provisioned ones."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.provisioned or self.spill):
            raise fault("leaves nothing where there are provisioned standins", "allow one of the two")
        return self


class PriorityBreaks(Model):
    """How long breaks last for one class."""

    multiplier: Annotated[float, Field(gt=0, le=1000)] = 1
    """The factor for a backend's hint, or for the default length of a break. Above 1 it does not count where
    a backend lacks capacity and says when it has some again: no class waits longer than that."""
    floor_seconds: Seconds | None = None
    """The shortest break, in seconds; as in `breaks` if not set."""
    ceiling_seconds: Seconds | None = None
    """The longest break, in seconds; as in `breaks` if not set."""


class Priority(Model):
    """One priority class."""

    name: Name
    """The name by which clients and groups refer to it."""
    breaks: PriorityBreaks = PriorityBreaks()
    """For how long it skips a backend after a failed attempt of any call."""
    wait: Wait | None = None
    """How its requests wait in the queue; without it they do not."""
    leave_free: Annotated[float, Field(ge=0, lt=1)] = 0
    """The share of each backend's capacity, below 1, that it leaves to higher classes."""
    may_use: MayUse = MayUse()
    """Which kinds of backends it may use."""
    minimum_share: Fraction = 0
    """The share of the freed places that it gets while its requests wait, even while higher classes wait."""

    def resolved(self, rank: int, lengths: BreakLengths) -> PriorityClass:
        """Return the class as the gateway uses it. ``lengths``: what counts where it says nothing."""
        own = self.breaks
        return PriorityClass(
            name=self.name,
            rank=rank,
            breaks=BreakLengths(
                lengths.default,
                lengths.floor if own.floor_seconds is None else own.floor_seconds,
                lengths.ceiling if own.ceiling_seconds is None else own.ceiling_seconds,
                own.multiplier,
            ),
            wait_seconds=self.wait.seconds if self.wait else 0.0,
            wait_length=self.wait.length if self.wait else 0,
            wait_bytes=self.wait.megabytes * 1024 * 1024 if self.wait else 0,
            leave_free=self.leave_free,
            may_use_provisioned=self.may_use.provisioned,
            may_spill=self.may_use.spill,
            minimum_share=self.minimum_share,
        )


BUILT_IN: tuple[dict[str, object], ...] = (
    {
        "name": "critical",
        "breaks": {"multiplier": 0.5, "floor_seconds": 0.1, "ceiling_seconds": 10},
        "wait": {"seconds": 20, "length": 500},
    },
    {"name": "standard", "wait": {"seconds": 20, "length": 500}, "minimum_share": 0.1},
    {
        "name": "batch",
        "breaks": {"multiplier": 2, "floor_seconds": 1, "ceiling_seconds": 120},
        "wait": {"seconds": 30, "length": 500},
        "minimum_share": 0.05,
    },
)
"""The classes of ``policies/priorities.yaml``: they apply where clients name a class and none is written."""

BUILT_IN_DEFAULT = "standard"
"""The class of clients that name none, then."""


def with_built_in(data: dict[str, Any]) -> dict[str, Any]:
    """Return the document with the built-in classes, if it has none of its own and something names one."""
    if data.get("priorities"):
        return data
    if data.get("default_priority") is None and not any(map(_names_a_class, _policies(data))):
        return data
    return {"default_priority": BUILT_IN_DEFAULT, **data, "priorities": BUILT_IN}


def _policies(data: Mapping[str, Any]) -> Iterator[Any]:
    """Iterate over what is written of groups and clients, before it is validated."""
    for part in ("groups", "clients"):
        written = data.get(part)
        if isinstance(written, list | tuple):
            yield from written


def _names_a_class(policy: Any) -> bool:
    """Whether a group or client, as written or as a model, names a priority class."""
    exceeded = _member(policy, "when_exceeded")
    return bool(_member(policy, "priority") or _member(exceeded, "priority"))


def _member(part: Any, key: str) -> Any:
    return part.get(key) if isinstance(part, dict) else getattr(part, key, None)
