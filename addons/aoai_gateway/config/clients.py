"""Who may send, as frozen models."""

from aoai_gateway.config.fields import Keys, Name
from aoai_gateway.config.issuers import TokenClaimsList
from aoai_gateway.config.policies import Group, Policy


class Client(Policy):
    """A consumer, identified by a key or by its token."""

    name: Name
    """Its name in logs and records."""
    description: str = ""
    """For people."""
    key: Keys = ()
    """Its API key, or a list of them while one is rotated; best as `${ENV_VAR}`."""
    uses_entra_id_auth: bool = False
    """`true` for the one client to which all calls with an Entra ID token belong."""
    enabled: bool = True
    """`false` locks the client out."""
    token: TokenClaimsList = ()
    """What its tokens say, which an issuer of `tokens` has issued; a list if several kinds are its own."""
    verify: bool | None = None
    """`false`, beside `uses_entra_id_auth`: its tokens are verified by Azure alone, not here."""
    group: Name | None = None
    """The group whose values count where the client has none of its own."""

    @property
    def brings_own_token(self) -> bool:
        """Whether all of its calls come with a token that is passed on to the endpoint."""
        return self.uses_entra_id_auth and not (self.key or self.token)

    def within(self, group: Group) -> "Client":
        """Return this client with what the group says where it says nothing itself.

        ``model_fields_set`` stays: it tells what is the client's own.
        """
        values = {name: getattr(self, name) for name in Client.model_fields} | self.inherited(group)
        return Client.model_construct(self.model_fields_set, **values)
