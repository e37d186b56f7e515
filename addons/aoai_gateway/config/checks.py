"""What must hold between the parts of a configuration: names, keys, who is last in line, what exists."""

from collections.abc import Iterator
from pathlib import Path

from aoai_gateway.config.client_checks import check_clients, check_priority_name
from aoai_gateway.config.fallbacks import check_fallbacks
from aoai_gateway.config.fields import is_loopback
from aoai_gateway.config.models import Client, Config, Endpoint
from aoai_gateway.config.problems import (
    STANDINS,
    VIRTUAL_DEPLOYMENTS,
    Finding,
    KeyPath,
    Locate,
    did_you_mean,
    listed,
    repeated,
)


def check(config: Config, locate: Locate) -> Iterator[Finding]:
    """Yield everything that is wrong (fatal), or that the writer should know of, between the parts."""
    yield from _check_endpoint_names(config, locate)
    for index, endpoint in enumerate(config.aoai.endpoints):
        path: KeyPath = ("aoai", "endpoints", index)
        yield from _check_credential(config, endpoint, path)
        yield from _check_url(endpoint, path)
        yield from _check_standins(endpoint, path)
        yield from _check_simulated(endpoint, path)
    yield from _check_mixture(config)
    yield from _check_pools(config)
    yield from _check_pool_fields(config, locate)
    yield from _check_weights(config)
    yield from check_fallbacks(config, locate)
    yield from _check_priorities(config, locate)
    yield from check_clients(config, locate)
    yield from _check_the_rest(config)


# --- endpoints ---------------------------------------------------------------------------------------------


def _check_endpoint_names(config: Config, locate: Locate) -> Iterator[Finding]:
    names = [endpoint.name for endpoint in config.aoai.endpoints]
    yield from repeated(names, ("aoai", "endpoints"), "an endpoint", locate)


def _check_credential(config: Config, endpoint: Endpoint, path: KeyPath) -> Iterator[Finding]:
    if endpoint.simulated:
        for key in ("url", "key", "auth"):
            if getattr(endpoint, key) is not None:
                yield Finding((*path, key), "a simulated endpoint has none", 'remove it, or "simulated"')
        return
    if endpoint.url is None:
        yield Finding(
            path, '"url" is missing', 'write https://….openai.azure.com/, or "simulated:" to do without Azure'
        )
    if endpoint.key is not None and endpoint.auth is not None:
        yield Finding((*path, "auth"), 'stands beside a "key": which one is shown?', "write one of them")
    elif not endpoint.has_credential and any(_needs_ours(client) for client in config.clients):
        yield Finding(
            path,
            '"key" is missing, and so is "auth"',
            'give the endpoint its "key", or write "auth: managed_identity"',
        )


def _needs_ours(client: Client) -> bool:
    """Whether calls of a client are sent with a credential of the gateway's."""
    return client.enabled and not client.brings_own_token


_FOUNDRY, _PROJECT = ".services.ai.azure.com", "/api/projects/"


def _check_url(endpoint: Endpoint, path: KeyPath) -> Iterator[Finding]:
    if endpoint.url is None:
        return
    if f"{endpoint.path_prefix}/".endswith(("/openai/", "/openai/v1/")):
        yield Finding(
            (*path, "url"),
            "ends with /openai, which the path of every request brings along: it would be there twice",
            "leave it out, unless a gateway in front of Azure asks for it",
            fatal=False,
        )
    if endpoint.host.endswith(_FOUNDRY) and endpoint.path_prefix.startswith(_PROJECT):
        yield Finding(
            (*path, "url"),
            "is the address of a project, which serves responses and no chat completions or embeddings",
            f"write the resource's: https://{endpoint.host}/",
            fatal=False,
        )
    if endpoint.scheme == "http" and not is_loopback(endpoint.host):
        yield Finding(
            (*path, "url"), "keys and prompts would travel unencrypted", "write https://", fatal=False
        )


def _check_standins(endpoint: Endpoint, path: KeyPath) -> Iterator[Finding]:
    if endpoint.virtual_deployments and endpoint.non_streaming_fraction != 1:
        yield Finding(
            (*path, "non_streaming_fraction"),
            "has no effect at an endpoint with virtual deployments",
            "write it at the standins",
            fatal=False,
        )
    seen: set[tuple[str, str]] = set()
    for i, virtual in enumerate(endpoint.virtual_deployments):
        for j, standin in enumerate(virtual.standins):
            name, place = standin.name, (*path, "virtual_deployments", i, "standins", j, "name")
            if (virtual.name, name) in seen:
                yield Finding(place, f"is already a standin for {virtual.name} at this endpoint")
            seen.add((virtual.name, name))
            if endpoint.simulated and name not in endpoint.simulated.deployments:
                yield Finding(
                    place,
                    "is not among the deployments of this simulated endpoint",
                    did_you_mean(name, endpoint.simulated.deployments)
                    or "it has " + listed(endpoint.simulated.deployments),
                )


def _check_simulated(endpoint: Endpoint, path: KeyPath) -> Iterator[Finding]:
    for name, deployment in endpoint.simulated.deployments.items() if endpoint.simulated else ():
        if deployment.provisioned_tokens_per_minute is None:
            continue
        for key in ("tokens_per_minute", "requests_per_minute"):
            if getattr(deployment, key) is not None:
                yield Finding(
                    (*path, "simulated", "deployments", name, key),
                    "is a limit of pay as you go; this deployment is provisioned",
                    "remove it, or provisioned_tokens_per_minute",
                )


def _check_mixture(config: Config) -> Iterator[Finding]:
    enabled = [endpoint for endpoint in config.aoai.endpoints if endpoint.enabled]
    real = [endpoint.name for endpoint in enabled if not endpoint.simulated]
    for index, endpoint in enumerate(config.aoai.endpoints):
        if real and endpoint.enabled and endpoint.simulated:
            yield Finding(
                ("aoai", "endpoints", index, "simulated"),
                f"simulated and real endpoints are mixed ({listed(real)}): clients would get made-up answers "
                "among real ones",
                "remove it, or set enabled: false",
            )


# --- pools -------------------------------------------------------------------------------------------------


def _check_pools(config: Config) -> Iterator[Finding]:
    paths = _backend_paths(config)
    if not any(endpoint.enabled for endpoint in config.aoai.endpoints):
        yield Finding(("aoai", "endpoints"), "every endpoint is switched off", fatal=False)
        return
    pools = config.virtual_deployments or {"every deployment": config.open_pool}
    last_told: set[KeyPath] = set()
    for name, pool in pools.items():
        if not pool:
            yield Finding(
                next(path for path, virtual in config.virtual_places() if virtual.name == name),
                f"every standin for {name} is switched off: all requests for it will be refused",
                fatal=False,
                rests_on=(VIRTUAL_DEPLOYMENTS, STANDINS),
            )
        elif pool[-1].non_streaming_fraction != 1:
            path = (*paths[id(pool[-1].standin or pool[-1].endpoint)], "non_streaming_fraction")
            if path not in last_told:
                yield Finding(
                    path,
                    f"must be 1: {pool[-1].name} is the last backend for {name}, and none is left to take "
                    "the non-streaming requests that it turns down",
                    "write 1, or leave it out",
                    rests_on=(VIRTUAL_DEPLOYMENTS, STANDINS),
                )
            last_told.add(path)


def _backend_paths(config: Config) -> dict[int, KeyPath]:
    """The paths of all endpoints and standins, by identity: equal ones may stand in several places."""
    paths: dict[int, KeyPath] = {
        id(endpoint): ("aoai", "endpoints", index) for index, endpoint in enumerate(config.aoai.endpoints)
    }
    for path, virtual in config.virtual_places():
        for number, standin in enumerate(virtual.standins):
            paths[id(standin)] = (*path, "standins", number)
    return paths


def _check_pool_fields(config: Config, locate: Locate) -> Iterator[Finding]:
    """What is said of a virtual deployment counts for its pool, over all endpoints."""
    for field in ("model", "strategy"):
        seen: dict[str, tuple[str, KeyPath]] = {}
        for place, virtual in config.virtual_places():
            value, path = getattr(virtual, field), (*place, field)
            if value is None:
                continue
            said, first = seen.setdefault(virtual.name, (value, path))
            if said != value:
                yield Finding(path, f'{virtual.name} is "{said}" in {locate(first)}', "it can only be one")


def _check_weights(config: Config) -> Iterator[Finding]:
    for path, virtual in config.virtual_places():
        for number, standin in enumerate(virtual.standins):
            if "weight" in standin.model_fields_set and config.strategy_of(virtual.name) != "weighted":
                yield Finding(
                    (*path, "standins", number, "weight"),
                    f"has no effect: the backends of {virtual.name} are tried in another way",
                    'write "strategy: weighted" beside its standins',
                    fatal=False,
                )


# --- priority classes --------------------------------------------------------------------------------------

_ROUNDING = 1e-9


def _check_priorities(config: Config, locate: Locate) -> Iterator[Finding]:
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


# --- the rest ----------------------------------------------------------------------------------------------


def _check_the_rest(config: Config) -> Iterator[Finding]:
    if not config.clients:
        yield Finding(
            ("clients",),
            "there is no client, so every call would be refused",
            'write "clients:" in this file or in a file of the folder policies',
        )
    elif not any(client.enabled for client in config.clients):
        yield Finding(("clients",), "every client is switched off", fatal=False)
    for key in ("private_key", "client_ca"):
        if getattr(config.listen, key) and not config.listen.certificate:
            yield Finding(("listen", key), "is of no use without a certificate", 'add "certificate"')
    yield from _check_admin(config)
    yield from _check_records(config)
    if config.breaks.floor_seconds > config.breaks.ceiling_seconds:
        yield Finding(("breaks", "floor_seconds"), "is above ceiling_seconds")


def _check_records(config: Config) -> Iterator[Finding]:
    log, jsonl, prompts = config.usage_log, config.usage_sinks.jsonl, config.record_prompts
    if jsonl is not None and log is not None and Path(log) == jsonl.path:
        yield Finding(
            ("usage_sinks", "jsonl", "path"),
            "is usage_log's file, too, so every record would be in it twice",
            "leave one of them out",
            fatal=False,
        )
    if prompts is None:
        return
    known = [client.name for client in config.clients]
    for index, name in enumerate(prompts.clients):
        if name not in known:
            yield Finding(
                ("record_prompts", "clients", index),
                f'there is no client "{name}"',
                did_you_mean(name, known),
            )
    if prompts.path in (jsonl.path if jsonl else None, Path(log or "stdout")):
        yield Finding(
            ("record_prompts", "path"),
            "is the usage log's file, too; records are for more people than prompts",
            "give it a file of its own",
        )


def _check_admin(config: Config) -> Iterator[Finding]:
    admin, listen = config.admin, config.listen
    if not admin.enabled:
        return
    tokens = [(holder.name, token.get_secret_value()) for holder, token in admin.holders()]
    for index, each in enumerate(admin.tokens):
        place: KeyPath = ("admin", "tokens", index)
        if any(name == each.name for name, _ in tokens[: len(tokens) - len(admin.tokens) + index]):
            yield Finding((*place, "name"), f'"{each.name}" has another token already', "names must differ")
        if sum(value == each.token.get_secret_value() for _, value in tokens) > 1:
            yield Finding((*place, "token"), "belongs to another entry, too", "give each a token of its own")
    if not tokens and not is_loopback(admin.host):
        yield Finding(
            ("admin", "token"),
            f"is missing: at {admin.host} others than this machine could switch off what they like",
            "add one, best as ${ENV_VAR}; or leave the host at 127.0.0.1",
        )
    if admin.port == listen.port != 0:
        yield Finding(
            ("admin", "port"),
            f"is {admin.port}, and so is listen.port: there will be no status page",
            "give it a port of its own, or write enabled: false",
            fatal=False,
        )
