"""What must hold of the keys of clients: whose they are, and how hard they are to guess.

No message shows one.
"""

from collections.abc import Iterator, Mapping

from aoai_gateway.config.clients import digest_of
from aoai_gateway.config.fields import is_loopback
from aoai_gateway.config.models import Client, Config, Endpoint
from aoai_gateway.config.problems import Finding, KeyPath

PUBLIC_KEY = "demo-key"
"""How every client key ends that stands in the shipped files, which are public."""

SHORTEST_KEY = 16
"""Characters. As many hex digits are 64 bits, as much as NIST SP 800-63B (§5.1.2) asks of a secret. Half of
them are found within weeks by a thousand guesses a second."""

BETTER = "`aoai-gateway key new NAME` makes one"


def check_keys(config: Config) -> Iterator[Finding]:
    """Yield everything that is wrong with keys, or that the writer should know of."""
    owners: dict[str, str] = {}
    endpoints = {
        digest_of(endpoint.written_key): endpoint
        for endpoint in reversed(config.aoai.endpoints)
        if endpoint.written_key is not None
    }
    for index, client in enumerate(config.clients):
        path: KeyPath = ("clients", index, "key")
        yield from _check_owner(client, path, owners)
        yield from _check_strength(config, client, path)
        yield from _check_endpoints_keys(endpoints, client, ("clients", index))
    yield from _check_addresses(config)


def _check_owner(client: Client, path: KeyPath, owners: dict[str, str]) -> Iterator[Finding]:
    if not (client.key or client.key_sha256 or client.certificate or client.token) and not (
        client.uses_entra_id_auth
    ):
        yield Finding(path[:-1], '"key" is missing', 'give it a key, or "token:" with claims of its tokens')
    keys = _keys(client)
    for key in keys:
        owner = owners.setdefault(key, client.name)
        if owner != client.name:
            yield Finding(
                path,
                f'the clients "{owner}" and "{client.name}" have the same key',
                "a key must tell who is calling",
            )
    if len(set(keys)) < len(keys):
        yield Finding(path, "the same key stands here twice")


def _check_strength(config: Config, client: Client, path: KeyPath) -> Iterator[Finding]:
    keys = _keys(client)
    real = [each for each in config.aoai.endpoints if each.enabled and each.simulated is None]
    if real and any(key.endswith(PUBLIC_KEY) for key in keys):
        yield Finding(
            path,
            "is the public one of the shipped examples, and opens real endpoints here",
            "give it a key of its own, or keep your file in a folder without these clients",
            fatal=False,
        )
        return
    shortest = min(map(len, keys), default=SHORTEST_KEY)
    if shortest < SHORTEST_KEY and client.enabled and any(map(_is_elsewhere, real)):
        yield Finding(
            path,
            f"has only {shortest} of the {SHORTEST_KEY} characters that make a key hard to guess: a "
            "caller who guesses it gets to the real endpoints here",
            f"write a longer one; {BETTER}",
            fatal=False,
        )


def _check_endpoints_keys(
    endpoints: Mapping[bytes, Endpoint], client: Client, path: KeyPath
) -> Iterator[Finding]:
    """A client that has an endpoint's own key needs no gateway, and is bound by no limit.

    ``endpoints``: those with a written key, by its digest.
    """
    if not client.enabled:
        return
    # By digest: where in the client it stands.
    places = {bytes.fromhex(each.sha256): "key_sha256" for each in client.key_sha256}
    places |= {digest_of(key): "key" for key in _keys(client)}
    for digest in places.keys() & endpoints.keys():
        yield Finding(
            (*path, places[digest]),
            f'is the key of the endpoint "{endpoints[digest].name}": its client can call that without the '
            "gateway, past every limit",
            f"give it a key of its own; {BETTER}",
            fatal=False,
        )


def _check_addresses(config: Config) -> Iterator[Finding]:
    """An address is shown where keys are not: in logs, on the status page, in flows."""
    keys = {key for client in config.clients for key in _keys(client)}
    keys |= {endpoint.written_key for endpoint in config.aoai.endpoints if endpoint.written_key is not None}
    keys = {key for key in keys if len(key) >= SHORTEST_KEY}
    for index, endpoint in enumerate(config.aoai.endpoints):
        if endpoint.url is not None and any(key in str(endpoint.url) for key in keys):
            yield Finding(
                ("aoai", "endpoints", index, "url"),
                "holds a key, and addresses are shown in logs and on the status page",
                'a key belongs in "key"',
                fatal=False,
            )


def _is_elsewhere(endpoint: Endpoint) -> bool:
    """Whether other machines than this one can reach it: calls to it may have to be paid for."""
    return endpoint.url is not None and not is_loopback(endpoint.host)


def _keys(client: Client) -> list[str]:
    return [key.get_secret_value() for key in client.key]
