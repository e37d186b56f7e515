"""The overview of a configuration that ``check`` prints."""

from collections.abc import Iterator

from aoai_gateway.config.credentials import source_name
from aoai_gateway.config.fallbacks import fallbacks_of
from aoai_gateway.config.loader import Loaded
from aoai_gateway.config.models import Client, Config, Endpoint, StandinAtEndpoint
from aoai_gateway.config.policies import WhenExceeded
from aoai_gateway.config.shared_store import shown_address

_LONG = 20

UNITS = {
    "tokens_per_minute": "tokens/min",
    "requests_per_minute": "requests/min",
    "tokens_per_day": "tokens/day",
    "tokens_per_month": "tokens/month",
}


def describe(loaded: Loaded) -> str:
    """Return an overview of endpoints, pools and classes in their order, masked clients, and warnings."""
    config = loaded.config
    sections = [
        ("Files", [str(file) for file in loaded.files]),
        ("Listens on", list(_listens(config))),
        ("Endpoints", [_endpoint(endpoint) for endpoint in config.aoai.endpoints]),
        ("Deployments, and the backends that serve them, in order", list(_pools(config))),
        ("Priorities, highest first", list(_classes(config))),
        ("Quotas are counted in", [_counts(config)]),
        ("Clients", [_client(client) for client in config.clients]),
        ("Warnings", [str(warning) for warning in loaded.warnings]),
    ]
    return "\n".join(
        line for title, lines in sections if lines for line in (title, *(f"  {each}" for each in lines), "")
    )


def mask(key: str) -> str:
    """Return what may be shown of a key: the last four characters, if that leaves enough to guess."""
    return f"…{key[-4:]}" if len(key) >= _LONG else "…"


def _listens(config: Config) -> Iterator[str]:
    scheme = "https" if config.listen.certificate else "http"
    yield _address(scheme, config.listen.host, config.listen.port)
    if config.admin.enabled:
        yield _address("http", config.admin.host, config.admin.port) + "  (status page)"


def _address(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port or '(a free port)'}"


def _endpoint(endpoint: Endpoint) -> str:
    where = f"simulated, {endpoint.simulated.region}" if endpoint.simulated else endpoint.url
    notes = [] if endpoint.enabled else ["switched off"]
    if endpoint.credential_source is not None:
        notes.append(f"credential from {source_name(endpoint.credential_source)}")
    if endpoint.is_open:
        notes.append("takes every deployment")
    return f"{endpoint.name}  {where}" + _notes(notes)


def _pools(config: Config) -> Iterator[str]:
    pools = config.virtual_deployments or {"(every deployment)": config.open_pool}
    for name, pool in pools.items():
        yield name
        if not pool:
            yield "   none: every backend that serves it is switched off"
        for number, backend in enumerate(pool, start=1):
            yield f"  {number}. {backend.name}" + _notes(_backend_notes(backend))
        for cause, other in fallbacks_of(config, name).items():
            yield f"  {cause}: falls back to {other}"


def _backend_notes(backend: StandinAtEndpoint) -> list[str]:
    notes = []
    standin = backend.standin
    if standin and standin.provisioned:
        notes.append("provisioned")
    if standin and standin.tokens_per_minute:
        notes.append(f"{standin.tokens_per_minute:,} tokens/min")
    if backend.non_streaming_fraction != 1:
        notes.append(f"{backend.non_streaming_fraction:.0%} of non-streaming requests")
    return notes


def _classes(config: Config) -> Iterator[str]:
    if not config.priorities:
        return
    usual = config.priority_class(None)
    for cls in config.priority_classes:
        notes = ["of clients that name none"] if cls is usual else []
        notes.append(f"waits up to {cls.wait_seconds:g} s" if cls.may_wait else "does not wait")
        if cls.leave_free:
            notes.append(f"leaves {cls.leave_free:.0%} free")
        if cls.minimum_share:
            notes.append(f"gets at least {cls.minimum_share:.0%} of what comes free")
        if not cls.may_use_provisioned:
            notes.append("not on provisioned standins")
        if not cls.may_spill:
            notes.append("only on provisioned standins, where there are some")
        yield cls.name + _notes(notes)


def _client(client: Client) -> str:
    notes = [] if client.enabled else ["switched off"]
    if client.priority:
        notes.append(client.priority)
    if client.key:
        word = "key" if len(client.key) == 1 else "keys"
        notes.append(f"{word} {', '.join(mask(key.get_secret_value()) for key in client.key)}")
    if client.key_sha256:
        word = "hash" if len(client.key_sha256) == 1 else "hashes"
        notes.append(f"{len(client.key_sha256)} {word} of keys")
    notes += [f"{each.what} ends {each.end:%Y-%m-%d}" for each in client.expiring()]
    notes += ["tokens with " + (", ".join(claims.named) or "anything") for claims in client.token]
    if client.certificate:
        notes.append("a certificate")
    if client.uses_entra_id_auth:
        notes.append("all calls with an Entra ID token")
    if client.group:
        notes.append(f"group {client.group}")
    if client.deployments_allowed is None:
        notes.append("may use everything")
    else:
        notes.append("may use " + (", ".join(client.deployments_allowed) or "nothing"))
    notes += _limits(client)
    return f"{client.name}" + _notes(notes)


def _limits(client: Client) -> list[str]:
    notes = []
    if client.endpoints_allowed is not None:
        notes.append("served by " + (", ".join(client.endpoints_allowed) or "no endpoint"))
    for kind, amounts in client.amounts():
        unit = UNITS[kind]
        notes += [f"{name} {amount:,} {unit}" for name, amount in amounts.deployments.items()]
        if amounts.total is not None:
            notes.append(f"{amounts.total:,} {unit}" + (" in total" if amounts.deployments else ""))
    for period, budget in (("day", client.max_cost_per_day), ("month", client.max_cost_per_month)):
        if budget is not None:
            notes.append(f"{budget:,g} in money/{period}")
    if client.per_user:
        limits = (f"{limit:,} {UNITS[kind]}" for kind, limit in client.per_user.limits())
        notes.append("each end user: " + ", ".join(limits))
    if client.request_limits:
        notes.append("limits on each request")
    if client.when_exceeded and client.when_exceeded.action != "reject":
        notes.append(f"{_when_exceeded(client.when_exceeded)} when exceeded")
    if client.dry_run:
        notes.append("dry run: limits only report")
    return notes


def _when_exceeded(said: WhenExceeded) -> str:
    if said.action == "wait":
        return f"waits up to {said.seconds:g} s"
    to = [said.deployment] if said.deployment else []
    to += [f"max_tokens {said.max_tokens:,}"] if said.max_tokens else []
    to += [f"priority {said.priority}"] if said.priority else []
    return "degraded to " + " or ".join(to)


def _counts(config: Config) -> str:
    if config.store is None:
        kept = f"; budgets per day and month in {config.budget_file}" if config.budget_file else ""
        kept += f"; affinity in {config.affinity_path}" if config.affinity_path else ""
        return "this process's memory" + kept
    return f"{shown_address(config.store)}, keys under {config.state_prefix}"


def _notes(notes: list[str]) -> str:
    return f"  ({'; '.join(notes)})" if notes else ""
