"""What must hold of priority classes, and of the names that clients and groups use for them."""

from collections.abc import Iterator

from aoai_gateway.config.models import Config, Policy
from aoai_gateway.config.problems import PRIORITIES, Finding, KeyPath, Locate, did_you_mean, listed, repeated

_ROUNDING = 1e-9


def check_priorities(config: Config, locate: Locate) -> Iterator[Finding]:
    """Yield everything that is wrong with the classes themselves, or that the writer should know of."""
    yield from repeated([each.name for each in config.priorities], ("priorities",), "a class", locate)
    for index, written in enumerate(config.priorities):
        lengths = config.priority_classes[index].breaks
        if lengths.floor > lengths.ceiling:
            key = "floor_seconds" if written.breaks.floor_seconds is not None else "ceiling_seconds"
            said = "above ceiling_seconds" if key == "floor_seconds" else "below floor_seconds"
            yield Finding(("priorities", index, "breaks", key), f"is {said}, which is that of breaks")
        yield from _check_what_is_left(config, index)
    if sum(each.minimum_share for each in config.priorities) > 1 + _ROUNDING:
        index = max(range(len(config.priorities)), key=lambda each: config.priorities[each].minimum_share)
        yield Finding(
            ("priorities", index, "minimum_share"), "is too much: all together are above 1", "lower one"
        )
    if config.default_priority is not None:
        yield from check_priority_name(config, config.default_priority, ("default_priority",))


def check_priority_name(config: Config, name: str, path: KeyPath) -> Iterator[Finding]:
    """Yield what is wrong with a class that is named at a path."""
    known = [each.name for each in config.priorities]
    if name not in known:
        suggestion = did_you_mean(name, known) or "there are " + listed(known)
        yield Finding(path, "is not a priority", suggestion, rests_on=(PRIORITIES,))


def priority_names(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    """Yield the classes that a group or client names, with their paths in it."""
    if policy.priority is not None:
        yield ("priority",), policy.priority
    if policy.when_exceeded is not None and policy.when_exceeded.priority is not None:
        yield ("when_exceeded", "priority"), policy.when_exceeded.priority


def _check_what_is_left(config: Config, index: int) -> Iterator[Finding]:
    cls = config.priority_classes[index]
    for name, pool in config.virtual_deployments.items():
        kinds = {backend.standin is not None and backend.standin.provisioned for backend in pool}
        beside = True in kinds
        if kinds and not any(cls.may_use(provisioned=kind, beside_provisioned=beside) for kind in kinds):
            yield Finding(
                ("priorities", index, "may_use"),
                f"leaves it nothing of {name}: all requests of the class for it will be refused",
                fatal=False,
            )
