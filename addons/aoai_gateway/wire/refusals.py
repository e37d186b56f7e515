"""Whose fault a refusal is, by what a backend says in it.

Between the gateway and Azure stand firewalls, proxies and API management, which refuse prompts with the same
statuses. So a status alone proves nothing; here Azure's own errors are told from theirs, by code and by how
the message begins. Not by what it holds: a firewall may quote the prompt.
"""

from __future__ import annotations

from aoai_gateway.wire.hints import error_code, read_error

_KEY_CODES = frozenset(
    {
        "authenticationtypedisabled",
        "invalid_api_key",
        "invalidauthenticationtoken",
        "permissiondenied",
        "invalidsubscriptionkey",
        "lackofpermission",
    }
)
# Facts §3.5; OpenAI's own, for compatible backends, last.
_KEY_MESSAGES = (
    "access denied due to",
    "access token is missing",
    "access to this resource",
    "authentication failed",
    "authorizationtoken",
    "key based authentication",
    "principal does not have access",
    "public access is disabled",
    "the principal ",
    "the resource has been temporarily blocked",
    "token is ",
    "traffic is not from an approved private endpoint",
    "unauthorized. access token",
    "incorrect api key",
    "invalid api key",
)


def is_key_refused(body: bytes | None) -> bool:
    """Whether a 401 or 403 says that the key, the identity or the network of its sender is refused.

    Then it is about every call that is sent with them.
    """
    code = error_code(body)
    if code is not None and code.lower() in _KEY_CODES:
        return True
    message = read_error(body).get("message")
    return isinstance(message, str) and message[:64].lstrip().lower().startswith(_KEY_MESSAGES)
