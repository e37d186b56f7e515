"""The kinds of values that a configuration holds, each with its check and its plain error message.

`Model` is the base of all that hold them.

The loader hands every YAML scalar over as the text that was written (``${ENV_VAR}`` filled in), so
``key: 0123`` keeps its zero and ``port: ${PORT}`` needs no rule of its own; pydantic's lax mode makes
numbers and booleans of it. A check that fails raises :func:`fault`; its message never repeats a value
that may hold a secret.
"""

import os
import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?", re.ASCII
)
UNNAMEABLE = re.compile(r"[\x00-\x1f\x7f]|^\s|\s$")
NOT_IN_A_DEPLOYMENT = re.compile(r"[/?#%\\\s]")
HEADER_TEXT = re.compile(r"[\x21-\x7e]+", re.ASCII)
SHORTEST_TOKEN = 16
_QUOTES = "\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
PLACEHOLDER = re.compile(r"_{2,}|<.*>", re.DOTALL)
_OTHER_VARIABLE = re.compile(
    r"os\.environ/\w+|\$[A-Z_][A-Z0-9_]*|\$env:\w+|\$\(\w+\)|%[A-Z_][A-Z0-9_]*%|#\{\w+\}#?", re.ASCII
)
"""A variable as LiteLLM, shells, PowerShell, Kubernetes, Windows and Azure Pipelines write it."""


def fault(message: str, suggestion: str | None = None) -> PydanticCustomError:
    """Build the error of a failed check: what is wrong, and optionally what would be right."""
    return PydanticCustomError("config", "{message}", {"message": message, "suggestion": suggestion})


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address or name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _name(value: str) -> str:
    if not value:
        raise fault("is empty")
    if UNNAMEABLE.search(value):
        raise fault("begins or ends with a space, or holds a control character")
    return value


def _deployment(value: str) -> str:
    if NOT_IN_A_DEPLOYMENT.search(_name(value)):
        raise fault(
            "is not a deployment name: it holds a space or one of / \\ ? # %",
            "Azure allows letters, digits, - _ and .",
        )
    return value


def _deployment_pattern(value: str) -> str:
    if len(value.split()) > 1:
        raise fault(
            "is not a deployment name: it holds a space", "write a comma between two names, or a list"
        )
    _deployment(value.replace("*", "x").replace("?", "x"))
    return value


def _distinct[T](by_name: Mapping[str, T]) -> Mapping[str, T]:
    """Check that no two names differ in their case only: to Azure they are one."""
    seen: dict[str, str] = {}
    for name in by_name:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            raise fault(f"has {first} and {name}, which Azure does not tell apart", "write one of them")
    return by_name


def _limit_name(value: str) -> str:
    if "*" in value or "?" in value:
        raise fault(
            "is a pattern, but a limit is for one virtual deployment",
            'write "total" for the limit over all of them together',
        )
    return _deployment(value)


def _key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if not text:
        raise fault("is empty")
    if PLACEHOLDER.fullmatch(text):
        raise fault(
            "is still a placeholder", "put in the real key, or ${ENV_VAR} to take it from the environment"
        )
    if _OTHER_VARIABLE.fullmatch(text):
        # Not a warning: as a client's key it would be a text that anyone can guess.
        raise fault("names a variable in another program's way", "write ${NAME}")
    if text.endswith(("\n", "\r")):
        raise fault("ends with a line break", "take it away: printf writes none, where echo does")
    if not HEADER_TEXT.fullmatch(text):
        quoted = text[0] in _QUOTES or text[-1] in _QUOTES
        raise fault(
            "holds a space or a character that an HTTP header cannot carry",
            'its quotes are typographic ones: write " in their place' if quoted else None,
        )
    return value


def _token(value: SecretStr) -> SecretStr:
    if len(_key(value).get_secret_value()) < SHORTEST_TOKEN:
        raise fault(
            f"is shorter than {SHORTEST_TOKEN} characters: it could be guessed",
            "`openssl rand -hex 20` makes a good one",
        )
    return value


def one_or_list(value: object) -> object:
    """Make a list of one that was written without its brackets."""
    return (value,) if isinstance(value, str | SecretStr) else value


def alone_for(key: str) -> Callable[[object], object]:
    """Return what takes a section that is written as one value for its member of this key."""
    return lambda value: value if isinstance(value, Mapping | BaseModel) else {key: value}


def comma_list(value: object) -> object:
    """Make a list of a text with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def split_url(url: str) -> SplitResult:
    """Take an endpoint URL apart.

    Raises :func:`fault` when it is not ``https://host[:port][/prefix/]``: the request's own path and
    query are appended to it, and credentials never stand in a URL.
    """
    example = "write it like https://contoso.openai.azure.com/"
    if PLACEHOLDER.fullmatch(url):
        raise fault("is still a placeholder", example)
    if url != url.strip():
        raise fault("has a space or a line break before or after it", "take it away")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise fault("is not a URL", example) from None
    if parts.scheme not in {"http", "https"}:
        raise fault("does not begin with https:// (or http://)", example)
    if not host:
        raise fault("names no host", example)
    if parts.username is not None or parts.password is not None:
        raise fault("holds a user name or password", 'the credential belongs in "key"')
    if operation := _ONE_OPERATION.search(parts.path):
        raise fault(
            "is the address of one operation, and each request brings its own path along",
            f"write what stands before {operation[0]}",
        )
    if "?" in url or "#" in url:
        raise fault("holds a query or a fragment", "the gateway passes on the query of each request")
    if PLACEHOLDER.search(host):
        raise fault("is still a placeholder", example)
    if not ("[" in parts.netloc or HOST.fullmatch(host)):
        raise fault("names a host that cannot exist", example)
    if port == 0 or re.search(r"[\x00-\x20\x7f]|[^\x00-\x7f]", url):
        raise fault("is not a URL", example)
    return parts


_ONE_OPERATION = re.compile(
    r"/openai/(?:deployments/|(?:v1/)?(?:chat|completions|responses|embeddings|images|audio|realtime)\b)"
    r"|/models/(?:chat/|embeddings\b)|/anthropic/v1/messages\b"
)
"""What the portal shows as a deployment's "target URI", after the address of its resource."""


def _url(value: str) -> str:
    split_url(value)
    return value


def _pattern(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        # PowerProxy matches header names with re.match and IGNORECASE.
        return re.compile(value, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError):
        raise fault(
            "is not a regular expression of Python", 'write it like "accept|x-ms-.*", and quote it'
        ) from None


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path counts from the folder of the main configuration file, not from the process's."""
    folder = (info.context or {}).get("folder")
    return Path(folder, os.path.expanduser(path)) if folder is not None else path


def _existing(path: Path, info: ValidationInfo) -> Path:
    path = _beside_the_file(path, info)
    if not path.is_file():
        raise fault("names a file that does not exist", f"looked for {path}")
    return path


def _log(value: str, info: ValidationInfo) -> str:
    if not value:
        raise fault("is empty", 'write "stdout" or the path of a file')
    if value == "stdout":
        return value
    path = _beside_the_file(Path(value), info)
    if path.is_dir() or not path.parent.is_dir():
        raise fault("is not a file in a folder that exists", f"looked at {path}")
    return str(path)


def _keepable(path: Path, info: ValidationInfo) -> Path:
    path = _beside_the_file(path, info)
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise fault("is not a file in a folder that exists", f"looked at {path}")
    return path


def _folder(path: Path, info: ValidationInfo) -> Path:
    path = _beside_the_file(path, info)
    if path.is_file() or not path.parent.is_dir():
        raise fault("is not a folder in a folder that exists", f"looked at {path}")
    return path


def _scope(value: str) -> str:
    if not HEADER_TEXT.fullmatch(value) or not value.endswith("/.default"):
        raise fault("is not a scope", "write it like https://cognitiveservices.azure.com/.default")
    return value


def _origin(value: str) -> str:
    low = value.lower()
    if low != "*" and not _ORIGIN.fullmatch(low):
        raise fault("is not an origin as browsers send it", "write https://host, https://host:port, or *")
    return low


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")


Name = Annotated[str, AfterValidator(_name)]
"""A name that is shown and compared: not empty, no control characters."""

DeploymentName = Annotated[str, AfterValidator(_deployment)]
"""A name that stands as one segment in a request's path."""

Key = Annotated[SecretStr, AfterValidator(_key)]
"""A key that fits into a header."""

Token = Annotated[SecretStr, AfterValidator(_token)]
"""A key that is long enough not to be guessed."""

Keys = Annotated[tuple[Key, ...], BeforeValidator(one_or_list, json_schema_input_type=Key | list[Key])]
"""One key, or a list while a key is rotated."""

Names = Annotated[tuple[Name, ...], BeforeValidator(one_or_list, json_schema_input_type=Name | list[Name])]
"""One name, or a list."""

DeploymentPattern = Annotated[str, AfterValidator(_deployment_pattern)]
"""A deployment's name, or a pattern like ``gpt-4o*``."""

DeploymentPatterns = Annotated[
    tuple[DeploymentPattern, ...],
    BeforeValidator(comma_list, json_schema_input_type=str | list[DeploymentPattern]),
]
"""``a, b*`` or a list."""

NamePatterns = Annotated[
    tuple[Name, ...], BeforeValidator(comma_list, json_schema_input_type=str | list[Name])
]
"""``a, b*`` or a list."""

LimitName = Annotated[str, AfterValidator(_limit_name)]
"""The name of one virtual deployment, or ``total``."""

DISTINCT = AfterValidator(_distinct)
"""For a mapping by deployment: case does not make another name."""

Url = Annotated[str, AfterValidator(_url)]
"""``https://host[:port][/prefix/]``."""

Scope = Annotated[str, AfterValidator(_scope)]
"""What a token is for: the address or id of an application, and ``/.default``."""

Origin = Annotated[str, AfterValidator(_origin)]
"""``https://host[:port]``, as browsers send it, or ``*`` for all."""

HeaderPattern = Annotated[
    re.Pattern[str],
    BeforeValidator(_pattern, json_schema_input_type=str),
    PlainSerializer(lambda pattern: pattern.pattern, return_type=str),
]
"""A Python regular expression over header names; case does not matter."""

ExistingFile = Annotated[Path, AfterValidator(_existing)]
"""A file that must be there; relative to the folder of the main configuration file."""

LogTarget = Annotated[str, AfterValidator(_log)]
"""``stdout`` or a path, relative to the folder of the main configuration file."""

KeptFile = Annotated[Path, AfterValidator(_keepable)]
"""A file that may be there or not; relative to the folder of the main configuration file."""

KeptFolder = Annotated[Path, AfterValidator(_folder)]
"""A folder that may be there or not; relative to the folder of the main configuration file."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A share between 0 and 1."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A positive time in seconds."""

Count = Annotated[int, Field(gt=0)]
"""A positive whole number."""

Amount = Annotated[float, Field(ge=0, le=10**12)]
"""A number that is not negative."""

Whole = Annotated[int, Field(ge=0, le=10**15)]
"""A whole number that is not negative; the bound keeps counters far from where doubles lose integers."""


class Model(BaseModel):
    """Frozen, unknown keys refused, inputs (they may be secret) never shown."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    def but(self, **changes: Any) -> Self:
        """Return a copy with the changes, validated; nothing that was derived from old values is copied."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate(fields | changes)
