"""Where the status page is, and who may use it."""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from pydantic import Field, SecretStr

from aoai_gateway.config.fields import Name, Token
from aoai_gateway.config.model import Model


class Holder(NamedTuple):
    """A person or program that uses the status page, and the workbench if ``prompts``.

    ``name``: empty if it is not known.
    """

    name: str = ""
    read_only: bool = False
    prompts: bool = True


class AdminToken(Model):
    """The token of one person or program."""

    name: Name
    """Whose it is; the list of what was done by hand says it."""
    token: Token
    """What is shown; 16 characters at least, best as `${ENV_VAR}`."""
    read_only: bool = False
    """`true`: it may see all of the status page, and change nothing."""
    prompts: bool = False
    """`true`: it opens the workbench, which shows all prompts and answers; with `read_only`, only to read."""


class Admin(Model):
    """The status page, its JSON, and what can be switched there: on an address of its own."""

    enabled: bool = True
    """`false` turns it off."""
    host: Name = "127.0.0.1"
    """The address to listen on; any other than a loopback address needs a token."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    """The port; 0 takes a free one, which the log names."""
    token: Token | None = None
    """The token that a browser or program must show; 16 characters at least, best as `${ENV_VAR}`."""
    tokens: tuple[AdminToken, ...] = ()
    """Tokens of single persons and programs, beside `token`, which may do everything."""

    def holders(self) -> Iterator[tuple[Holder, SecretStr]]:
        """Iterate over all tokens that count, each with whose it is."""
        if self.token is not None:
            yield Holder(), self.token
        for each in self.tokens:
            yield Holder(each.name, each.read_only, each.prompts), each.token
