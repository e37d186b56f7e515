"""What must hold of groups and clients: names, keys, what they may use, and their limits there."""

from collections.abc import Iterable, Iterator

from aoai_gateway.config.credential_checks import check_credentials
from aoai_gateway.config.models import Client, Config, Group, Policy
from aoai_gateway.config.patterns import is_pattern, matches, matches_any, matches_deployment
from aoai_gateway.config.policies import LIMITS, TOTAL
from aoai_gateway.config.problems import (
    ENDPOINTS,
    GROUPS,
    PRIORITIES,
    VIRTUAL_DEPLOYMENTS,
    Finding,
    KeyPath,
    Locate,
    did_you_mean,
    listed,
    repeated,
)

BUDGETS = ("max_tokens_per_day", "max_tokens_per_month", "max_cost_per_day", "max_cost_per_month")


def check_clients(config: Config, locate: Locate) -> Iterator[Finding]:
    """Yield everything that is wrong with groups and clients, or that the writer should know of."""
    yield from repeated([group.name for group in config.groups], ("groups",), "a group", locate)
    yield from repeated([client.name for client in config.clients], ("clients",), "a client", locate)
    yield from check_credentials(config)
    for place in _places(config):
        yield from _check_names(config, place)
        yield from _check_limits(config, place)
        yield from _check_when_exceeded(config, place)
    found = (finding for client in _clients(config) for finding in _check_client(config, client))
    # What a group says of all of its clients is said once.
    yield from dict.fromkeys(found)
    yield from _check_budgets(config)
    yield from _check_priorities(config)


class _Place:
    """A group or a client, and where each of its keys was written."""

    def __init__(self, policy: Policy, path: KeyPath, group: "_Place | None" = None) -> None:
        self.policy = policy
        self.path = path
        self.group = group

    def wrote(self, key: str) -> bool:
        """Whether it says this itself, and not its group."""
        said = key in self.policy.model_fields_set if self.group else True
        return said and getattr(self.policy, key) is not None

    def at(self, key: str) -> KeyPath:
        """The path of a key, which is its group's where it does not say it itself."""
        return (*self.path, key) if self.wrote(key) or self.group is None else self.group.at(key)


def _places(config: Config) -> Iterator[_Place]:
    for index, group in enumerate(config.groups):
        yield _Place(group, ("groups", index))
    yield from _clients(config)


def _clients(config: Config) -> Iterator[_Place]:
    groups: dict[str, _Place] = {}
    for index, group in enumerate(config.groups):
        groups.setdefault(group.name, _Place(group, ("groups", index)))
    for index, client in enumerate(config.clients):
        yield _Place(client, ("clients", index), groups.get(client.group or ""))


# --- what they name ----------------------------------------------------------------------------------------


def _check_names(config: Config, place: _Place) -> Iterator[Finding]:
    """Names of groups, deployments and endpoints: do they exist."""
    policy, deployments = place.policy, list(config.virtual_deployments)
    if isinstance(policy, Client) and policy.group is not None:
        groups = [group.name for group in config.groups]
        if policy.group not in groups:
            known = "there are " + listed(groups) if groups else 'write "groups:" with it'
            yield Finding(
                (*place.path, "group"),
                "is not a group",
                did_you_mean(policy.group, groups) or known,
                rests_on=(GROUPS,),
            )
    if place.wrote("deployments_allowed"):
        allowed = policy.deployments_allowed or ()
        path = (*place.path, "deployments_allowed")
        if not allowed:
            yield Finding(
                path,
                f"is empty: the {_word(policy)} may use nothing",
                "leave it out to allow everything",
                fatal=False,
            )
        for index, name in enumerate(allowed):
            yield from _unknown(name, deployments, (*path, index))
    if place.wrote("endpoints_allowed"):
        endpoints = [endpoint.name for endpoint in config.aoai.endpoints]
        path = (*place.path, "endpoints_allowed")
        if not policy.endpoints_allowed:
            yield Finding(
                path,
                f"is empty: no endpoint may serve the {_word(policy)}",
                "leave it out to allow all endpoints",
                fatal=False,
            )
        for index, name in enumerate(policy.endpoints_allowed or ()):
            yield from _unknown(name, endpoints, (*path, index), "an endpoint", ENDPOINTS)
    if place.wrote("request_limits") and policy.request_limits:
        for name in policy.request_limits.deployments:
            path = (*place.path, "request_limits", "deployments", name)
            yield from _unknown(name, deployments, path)


def _unknown(
    name: str,
    known: list[str],
    path: KeyPath,
    what: str = "a virtual deployment",
    names: KeyPath = VIRTUAL_DEPLOYMENTS,
) -> Iterator[Finding]:
    fits = matches if names is ENDPOINTS else matches_deployment
    if not known or any(fits(name, each) for each in known):
        return
    said = f"{name} matches no {what.split(' ', 1)[1]}" if is_pattern(name) else f"{name} is not {what}"
    suggestion = did_you_mean(name, known) or "there are " + listed(known)
    yield Finding(path, said, suggestion, fatal=False, rests_on=(names,))


def _check_limits(config: Config, place: _Place) -> Iterator[Finding]:
    deployments = list(config.virtual_deployments)
    for keys in LIMITS.values():
        written = [key for key, _ in keys if place.wrote(key)]
        for key in written[1:]:
            yield Finding((*place.path, key), f"sets the same limit as {written[0]}", "write one of them")
        for key in written:
            limits = getattr(place.policy, key)
            for name in limits if not isinstance(limits, int | float) else ():
                path = (*place.path, key, name)
                if name != TOTAL:
                    yield from _unknown(name, deployments, path)
                elif TOTAL in deployments:
                    yield Finding(
                        path,
                        f'"{TOTAL}" means all virtual deployments together, so one of this name cannot have '
                        "a limit of its own",
                        "give the virtual deployment another name",
                    )


def _check_when_exceeded(config: Config, place: _Place) -> Iterator[Finding]:
    said = place.policy.when_exceeded
    if not place.wrote("when_exceeded") or said is None or said.deployment is None:
        return
    if not config.knows(said.deployment):
        known = list(config.virtual_deployments)
        yield Finding(
            (*place.path, "when_exceeded", "deployment"),
            f"{said.deployment} is not a virtual deployment",
            did_you_mean(said.deployment, known) or "there are " + listed(known),
            rests_on=(VIRTUAL_DEPLOYMENTS,),
        )


def _word(policy: Policy) -> str:
    return "group" if isinstance(policy, Group) else "client"


# --- what follows for each client --------------------------------------------------------------------------


def _check_client(config: Config, place: _Place) -> Iterator[Finding]:
    """What only the client's and its group's keys together tell."""
    usable = _usable(config, place.policy)
    for kind, amounts in place.policy.amounts():
        unlimited = [name for name in usable if not amounts.covers(name)]
        if unlimited:
            key = next(key for key, _ in LIMITS[kind] if getattr(place.policy, key) is not None)
            yield Finding(
                place.at(key),
                f"has no limit for {listed(unlimited)}, which the client may use: it will be refused there",
                f'add one, or "{TOTAL}" for all together, or write one number for all',
                fatal=False,
                rests_on=(VIRTUAL_DEPLOYMENTS,),
            )
    yield from _check_end_users(place)
    yield from _check_cost(config, place, usable)
    said = place.policy.when_exceeded
    other = said.deployment if said else None
    if other and config.knows(other) and not _may_use(place.policy, other):
        yield Finding(
            (*place.at("when_exceeded"), "deployment"),
            f"the client may not use {other}, so its requests will not be degraded to it",
            'add it to "deployments_allowed"',
            fatal=False,
        )
    if place.policy.endpoints_allowed:
        yield from _check_what_is_left(config, place, usable)


def _check_cost(config: Config, place: _Place, usable: Iterable[str]) -> Iterator[Finding]:
    """What has no price costs nothing, so a budget in money would not hold it."""
    for key in ("max_cost_per_day", "max_cost_per_month"):
        if getattr(place.policy, key) is None:
            continue
        without = [name for name in usable if config.price_of(name) is None]
        if without or not config.prices:
            yield Finding(
                place.at(key),
                f"cannot be held: there is no price for {listed(without) if without else 'any deployment'}",
                'add it under "prices", by model or virtual deployment',
            )
            return


def _check_end_users(place: _Place) -> Iterator[Finding]:
    client, source = place.policy, place.policy.user_from
    if client.per_user is not None and source is None:
        missing = "does not say where calls name their end user"
        yield Finding(place.at("per_user"), missing, 'write "user_from:" beside it')
    has_claims = isinstance(client, Client) and (client.token or client.verify)
    if source is not None and source.place == "claim" and not has_claims:
        yield Finding(
            place.at("user_from"),
            "names no end user: the client has no verified tokens, and so no claims",
            'give it "token:", or write header or body',
            fatal=False,
        )


def _usable(config: Config, policy: Policy) -> list[str]:
    if config.virtual_deployments:
        return [name for name in config.virtual_deployments if _may_use(policy, name)]
    return [name for name in policy.deployments_allowed or () if not is_pattern(name)]


def _may_use(policy: Policy, deployment: str) -> bool:
    return policy.deployments_allowed is None or any(
        matches_deployment(pattern, deployment) for pattern in policy.deployments_allowed
    )


def _check_what_is_left(config: Config, place: _Place, usable: Iterable[str]) -> Iterator[Finding]:
    """Whether the endpoints that may serve a client can serve it what it may use."""
    path = place.at("endpoints_allowed")
    for name in usable:
        pool = config.pool(name)
        allowed = place.policy.endpoints_allowed or ()
        left = [backend for backend in pool if matches_any(allowed, backend.endpoint.name)]
        if pool and not left:
            yield Finding(
                path,
                f"no endpoint among them serves {name}, which the client may use",
                fatal=False,
                rests_on=(ENDPOINTS, VIRTUAL_DEPLOYMENTS),
            )
        elif left and left[-1].non_streaming_fraction != 1:
            yield Finding(
                path,
                f"{left[-1].name} becomes the last backend for {name}, and no other is left for the "
                "non-streaming requests that it turns down",
                "allow an endpoint whose non_streaming_fraction is 1",
                fatal=False,
            )


def _check_budgets(config: Config) -> Iterator[Finding]:
    if config.store is not None:
        if config.budget_file is not None:
            yield Finding(("budget_file",), "has no effect: budgets are kept in Redis", fatal=False)
        if config.affinity_file is not None:
            yield Finding(("affinity_file",), "has no effect: affinity is kept in Redis", fatal=False)
        return
    if config.budget_file is not None:
        return
    for place in _places(config):
        for key in BUDGETS:
            if place.wrote(key):
                yield Finding(
                    (*place.path, key),
                    "what is spent per day and month is only kept in memory: a restart forgets it",
                    'write "budget_file:" with a path, or "state:" with a Redis URL',
                    fatal=False,
                )
                return


def _check_priorities(config: Config) -> Iterator[Finding]:
    for place in _places(config):
        for path, name in _priority_names(place.policy):
            if not place.wrote(str(path[0])):
                continue
            found = list(check_priority_name(config, name, (*place.path, *path)))
            yield from found
            if found and not config.priorities:
                return  # what follows from there being none is said once


def check_priority_name(config: Config, name: str, path: KeyPath) -> Iterator[Finding]:
    """Yield what is wrong with a class that is named at a path."""
    known = [each.name for each in config.priorities]
    if name not in known:
        suggestion = did_you_mean(name, known) or "there are " + listed(known)
        yield Finding(path, "is not a priority", suggestion, rests_on=(PRIORITIES,))


def _priority_names(policy: Policy) -> Iterator[tuple[KeyPath, str]]:
    """Yield the classes that a group or client names, with their paths in it."""
    if policy.priority is not None:
        yield ("priority",), policy.priority
    if policy.when_exceeded is not None and policy.when_exceeded.priority is not None:
        yield ("when_exceeded", "priority"), policy.when_exceeded.priority
