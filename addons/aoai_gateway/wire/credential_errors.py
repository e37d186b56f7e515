"""How the gateway refuses what a client shows: with a code of its own for each reason.

No message repeats a part of a token, nor says what would have been accepted. What a token claims about itself
is told only once its signature has been found right; before that, every sender could ask.

======================  ======  =============================================================
code                    status  when
======================  ======  =============================================================
401                     401     no key, or one that no client has
invalid_token           401     a token, where clients have keys only
token_too_large         401     it is longer than any real one
token_malformed         401     it is no JWT, or lacks what every token has
token_issuer_unknown    401     nothing that it claims to come from is trusted here
token_algorithm         401     its kind of signature does not count (``none``, a shared secret, …)
token_key_unknown       401     its issuer has no such key
token_signature         401     its signature is wrong
token_expired           401     it is too old
token_not_yet_valid     401     it is for later
token_audience          401     it is for another audience
token_tenant            401     its tenant may not come in
token_client_unknown    403     it is right, but belongs to no client
token_groups_left_out   403     it belongs to no client, and its sender is in too many groups for a token
token_client_ambiguous  403     it is right, and belongs to several clients
token_keys_unavailable  503     its issuer's keys are not to be had just now
key_expired             401     the `not_after` of the client's key has passed
certificate_expired     401     the client's certificate has expired since it connected
======================  ======  =============================================================
"""

from __future__ import annotations

from aoai_gateway.wire.gateway_error import GatewayError

_MESSAGES = {
    "token_too_large": "It is too long. Send an access token for this gateway, without needless claims",
    "token_malformed": "It is malformed. Send an access token as its issuer gave it",
    "token_issuer_unknown": "This gateway does not trust its issuer. Get one from an issuer that it trusts",
    "token_algorithm": "It is not signed in a way that counts here. Get one from an issuer that is trusted",
    "token_key_unknown": "It is signed with a key that its issuer does not have. Request a new one",
    "token_signature": "Its signature is wrong. Send an access token as its issuer gave it",
    "token_expired": "It has expired. Request a new one",
    "token_not_yet_valid": "It is not valid yet. See whether the clocks are right",
    "token_audience": "It is for another audience. Request one for this gateway",
    "token_tenant": "Tokens of its tenant are not accepted here. Sign in to another one",
    "token_client_unknown": "It is valid, but belongs to no client of this gateway. "
    "Ask the gateway's administrator to add one",
    "token_groups_left_out": "Its sender is in too many groups for a token, so it does not list them and "
    "belongs to no client of this gateway. Have its issuer write only those that the application needs",
    "token_client_ambiguous": "It is valid, but several clients of this gateway could be meant. "
    "Ask the gateway's administrator to tell them apart",
    "token_keys_unavailable": "The keys of its issuer cannot be fetched just now. Try again soon",
    "key_expired": "It counted until a date that has passed. Ask the gateway's administrator for a new one",
    "certificate_expired": "It has expired since the connection was made. Connect with a new one",
}

CODES = tuple(_MESSAGES)
"""All codes, in the order in which a token is looked at."""

RETRY_SECONDS = 5


def token_refused(code: str) -> GatewayError:
    """Make the answer to a token that is not accepted; ``code`` is one of the module's table."""
    what = {"key_expired": "key", "certificate_expired": "certificate"}.get(code, "access token")
    message = f"The {what} is not accepted. {_MESSAGES[code]}."
    if code == "token_keys_unavailable":
        wait = (("retry-after", str(RETRY_SECONDS)),)
        return GatewayError(503, code, message, type="server_error", headers=wait)
    if code in ("token_client_unknown", "token_groups_left_out", "token_client_ambiguous"):
        return GatewayError(403, code, message, type="permission_denied")
    if not code.startswith("token_"):
        return GatewayError(401, code, message, type="authentication_error")
    challenge = (("www-authenticate", 'Bearer error="invalid_token"'),)
    return GatewayError(401, code, message, type="authentication_error", headers=challenge)


def unauthorized() -> GatewayError:
    """401: no key, or a key that belongs to no client. Worded like Azure's own."""
    return GatewayError(
        401,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Send a key that this gateway "
        "knows, as the 'api-key' header or as 'Authorization: Bearer <key>'.",
        type="authentication_error",
    )


def invalid_token(message: str = "it is malformed, expired or meant for another audience") -> GatewayError:
    """401: a bearer token that is not accepted. ``message``: the reason, without any part of it."""
    return GatewayError(
        401,
        "invalid_token",
        f"The access token is not accepted: {message}. Request a new one for "
        "https://cognitiveservices.azure.com/.default, or use a key of this gateway.",
        type="authentication_error",
        headers=(("www-authenticate", 'Bearer error="invalid_token"'),),
    )
