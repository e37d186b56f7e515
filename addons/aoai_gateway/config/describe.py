"""What the gateway makes of a configuration, for people: the overview that ``check`` prints."""

from collections.abc import Iterator, Mapping

from aoai_gateway.config.loader import Loaded
from aoai_gateway.config.models import Backend, Client, Config, Endpoint

_LONG = 20


def describe(loaded: Loaded) -> str:
    """Return an overview of endpoints, pools in their order, clients with masked keys, and warnings."""
    config = loaded.config
    sections = [
        ("Files", [str(file) for file in loaded.files]),
        ("Listens on", [_listen(config)]),
        ("Endpoints", [_endpoint(endpoint) for endpoint in config.aoai.endpoints]),
        ("Deployments, and who serves them in which order", list(_pools(config))),
        ("Clients", [_client(client) for client in config.clients]),
        ("Warnings", [str(warning) for warning in loaded.warnings]),
    ]
    return "\n".join(
        line for title, lines in sections if lines for line in (title, *(f"  {each}" for each in lines), "")
    )


def mask(key: str) -> str:
    """Return what may be shown of a key: the last four characters, if that leaves enough to guess."""
    return f"…{key[-4:]}" if len(key) >= _LONG else "…"


def _listen(config: Config) -> str:
    scheme = "https" if config.listen.certificate else "http"
    host = f"[{config.listen.host}]" if ":" in config.listen.host else config.listen.host
    return f"{scheme}://{host}:{config.listen.port or '(a free port)'}"


def _endpoint(endpoint: Endpoint) -> str:
    where = f"simulated, {endpoint.simulated.region}" if endpoint.simulated else endpoint.url
    notes = [] if endpoint.enabled else ["switched off"]
    if endpoint.is_open:
        notes.append("takes every deployment")
    return f"{endpoint.name}  {where}" + _notes(notes)


def _pools(config: Config) -> Iterator[str]:
    pools = config.virtual_deployments or {"(every deployment)": config.open_pool}
    for name, pool in pools.items():
        yield name
        if not pool:
            yield "   nobody: everything that serves it is switched off"
        for number, backend in enumerate(pool, start=1):
            yield f"  {number}. {backend.name}" + _notes(_backend_notes(backend))


def _backend_notes(backend: Backend) -> list[str]:
    notes = []
    standin = backend.standin
    if standin and standin.provisioned:
        notes.append("provisioned")
    if standin and standin.tokens_per_minute:
        notes.append(f"{standin.tokens_per_minute:,} tokens/min")
    if backend.non_streaming_fraction != 1:
        notes.append(f"{backend.non_streaming_fraction:.0%} of non-streaming requests")
    return notes


def _client(client: Client) -> str:
    notes = [] if client.enabled else ["switched off"]
    if client.priority:
        notes.append(client.priority)
    if client.key:
        word = "key" if len(client.key) == 1 else "keys"
        notes.append(f"{word} {', '.join(mask(key.get_secret_value()) for key in client.key)}")
    if client.uses_entra_id_auth:
        notes.append("everybody with an Entra ID token")
    if client.deployments_allowed is None:
        notes.append("may use everything")
    else:
        notes.append("may use " + (", ".join(client.deployments_allowed) or "nothing"))
    for limit, unit in (
        (client.max_tokens_per_minute_in_k, "k tokens/min"),
        (client.max_requests_per_minute, " requests/min"),
    ):
        if isinstance(limit, Mapping):
            notes += [f"{name} {amount:g}{unit}" for name, amount in limit.items()]
        elif limit is not None:
            notes.append(f"{limit:g}{unit}")
    return f"{client.name}" + _notes(notes)


def _notes(notes: list[str]) -> str:
    return f"  ({'; '.join(notes)})" if notes else ""
