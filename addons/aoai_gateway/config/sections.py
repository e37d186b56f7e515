"""The sections that say how a process serves: addresses, the status page, bounds, replay, breaks."""

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, SecretStr

from aoai_gateway.config.fields import Count, ExistingFile, KeptFolder, Model, Name, Origin, Seconds, Token
from aoai_gateway.config.priorities import BreakLengths

MIB = 1024 * 1024


class Listen(Model):
    """Where clients reach the gateway."""

    host: Name = "127.0.0.1"
    """The address to listen on; `0.0.0.0` for all of IPv4, `::` for all of IPv6, without IPv4."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """The port; 0 takes a free one, which the log names."""
    certificate: ExistingFile | None = None
    """A PEM file with the certificate chain (and the key, if `private_key` is not set): serves https."""
    private_key: ExistingFile | None = None
    """A PEM file with the certificate's private key."""
    client_ca: ExistingFile | None = None
    """A PEM file of the authorities that sign clients' certificates; needs `certificate`."""


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


class Log(Model):
    """How ``serve`` writes its log; mitmproxy's tools have options of their own for it."""

    format: Literal["text", "json"] = "text"
    """`text` or `json`, a line for each event."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is written: `debug`, `info`, `warning` or `error`."""


class Drain(Model):
    """How the gateway leaves when it is told to stop (SIGTERM)."""

    unready_seconds: Annotated[float, Field(ge=0, le=600)] | None = None
    """Seconds for which it reports to be unready, and still accepts calls, so that a balancer sends no
    more to it; without a number 5 if readiness is polled, else 0."""


class Workbench(Model):
    """The page where prompts are read, edited, run and compared. In mitmweb it is always there."""

    enabled: bool = False
    """`true` serves it on the admin listener of a gateway without mitmweb; `--capture` does, too."""
    sets: KeptFolder | None = None
    """The folder of the sets of cases; `prompt-sets` beside the main file if absent."""


class Cors(Model):
    """Which pages may call the gateway from a browser."""

    origins: tuple[Origin, ...] = ()
    """Their origins, as browsers send them (`https://chat.contoso.com`), or `*` for all; none if empty."""

    @property
    def any_origin(self) -> bool:
        """Whether all pages may."""
        return "*" in self.origins


class Limits(Model):
    """What clients may ask of the gateway: sizes, times, connections."""

    header_kb: Count = 64
    """Kilobytes (1,024 bytes) that a request's head may have."""
    body_mb: Count = 100
    """Megabytes (1,024 kilobytes) that a request's body may have."""
    bodies_mb: Count = 256
    """Megabytes of all bodies in memory, at least twice `body_mb`; a client may hold as much as is free."""
    upload_mb: Count = 512
    """Megabytes of a form with files, or of a part of an upload: such bodies are kept on disk."""
    uploads_mb: Count = 4096
    """Megabytes of all of these on disk; a client may hold as much as is free."""
    head_seconds: Seconds = 30
    """Seconds that a request's head may take, since it or its connection began."""
    body_seconds: Seconds = 30
    """Seconds between two parts of a request's body, which must come with 1 KB/s on average after them."""
    keep_alive_seconds: Seconds = 300
    """Seconds for which a connection may be idle between two requests."""
    answer_seconds: Seconds = 3600
    """Seconds that a backend may take to the end of its answer."""
    unread_seconds: Seconds = 60
    """Seconds for which a client may read nothing of its answer, or less than 1 KB/s on average."""
    message_mb: Count = 16
    """Megabytes that one message of a realtime session may have."""
    session_seconds: Seconds = 3600
    """Seconds that a realtime session may last."""
    session_idle_seconds: Seconds = 300
    """Seconds for which neither side of a realtime session may send anything."""
    connections: Count | None = None
    """Connections of clients at a time; if not set, what `ulimit -n` is enough for, 10,000 at most."""
    connections_per_address: Count | None = None
    """Connections of one IP address at a time; half of all if not set. A proxy is one address."""

    @cached_property
    def body_bytes(self) -> int:
        """Bytes that a request's body may have."""
        return self.body_mb * MIB

    @cached_property
    def upload_bytes(self) -> int:
        """Bytes that an upload on disk may have."""
        return max(self.upload_mb, self.body_mb) * MIB

    @cached_property
    def spooled_bytes(self) -> int:
        """Bytes of all uploads on disk; a client alone gets half of them, and one upload must fit."""
        return max(self.uploads_mb * MIB, 2 * self.upload_bytes)

    @cached_property
    def held_bytes(self) -> int:
        """Bytes of all bodies in memory; a client alone gets half of them, and one body must fit."""
        return max(self.bodies_mb, 2 * self.body_mb) * MIB


class Replay(Model):
    """How long and how often one call is sent again."""

    max_attempts: Count = 10
    """Attempts of one call, the first one included."""
    max_seconds: Seconds = 120
    """Seconds after which no further attempt of a call is begun."""
    first_byte_seconds: Seconds = 30
    """Seconds that an answer may take to begin, at least, before a usually faster backend is given up."""
    handshake_seconds: Seconds = 5
    """Seconds that a backend may take to accept a realtime session."""
    idle_seconds: Seconds = 120
    """Seconds between two chunks of an answer."""
    preamble_seconds: Seconds = 20
    """Seconds for which the beginning of a stream is held back to see whether a refusal follows."""
    preamble_kb: Count = 512
    """Kilobytes of this beginning that are held back at most."""
    error_body_kb: Count = 256
    """Kilobytes of a failed answer's body that are read."""
    error_body_seconds: Seconds = 2
    """Seconds for which a failed answer's body is read."""


class Breaks(Model):
    """For how long a backend is skipped after a failed attempt."""

    default_seconds: Seconds = 10
    """Seconds for which a backend is skipped that gave no hint."""
    floor_seconds: Seconds = 0.2
    """The shortest break, in seconds."""
    ceiling_seconds: Seconds = 60
    """The longest break in seconds, even if the hint is longer."""

    @property
    def lengths(self) -> BreakLengths:
        """The same, as a number to count with."""
        return BreakLengths(self.default_seconds, self.floor_seconds, self.ceiling_seconds)
