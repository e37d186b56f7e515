"""The setting that most end-to-end tests play in: two simulated resources and a gateway before them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLIENT_KEY = "client-key-0b5f9c1e7d"
"""The key of the setting's client. It must turn up in no flow, log or error."""

API_VERSION = "2024-10-21"

_INSTANT = {"first_token_seconds": 0, "tokens_per_second": 0}

SPEC: dict[str, Any] = {
    "sweden": {
        "region": "Sweden Central",
        "deployments": {
            "gpt-4o-ptu": {"model": "gpt-4o", **_INSTANT},
            "gpt-4o-paygo": {"model": "gpt-4o", **_INSTANT},
            "gpt-4o-mini": {"model": "gpt-4o-mini", **_INSTANT},
            "embed": {"model": "text-embedding-3-small", **_INSTANT},
        },
    },
    "france": {
        "region": "France Central",
        "deployments": {
            "gpt-4o-france": {"model": "gpt-4o", **_INSTANT},
            "embed": {"model": "text-embedding-3-small", **_INSTANT},
        },
    },
}
"""Endpoints that answer at once and know no limits: what goes wrong is what a test makes go wrong."""

POOLS: dict[str, dict[str, list[str]]] = {
    "sweden": {
        "gpt-4o": ["gpt-4o-ptu", "gpt-4o-paygo"],
        "gpt-4o-mini": ["gpt-4o-mini"],
        "text-embedding-3-small": ["embed"],
    },
    "france": {
        "gpt-4o": ["gpt-4o-france"],
        "text-embedding-3-small": ["embed"],
    },
}
"""By endpoint: virtual deployment and standins. gpt-4o has three backends, two of them at one endpoint."""


def configuration(
    urls: Mapping[str, str],
    keys: Mapping[str, str],
    *,
    pools: Mapping[str, Mapping[str, list[str]]] = POOLS,
    fallbacks: Mapping[str, Mapping[str, str]] = {},
    **sections: Any,
) -> dict[str, Any]:
    """Write the configuration of a gateway before the endpoints at `urls`.

    Args:
        urls: by endpoint, in the order of preference.
        keys: by endpoint.
        pools: by endpoint, as :data:`POOLS`.
        fallbacks: by virtual deployment, to which other one it falls back for a cause.
        sections: top-level sections, which replace those made here; ``aoai`` is merged with it.

    """
    endpoints = [
        {
            "name": name,
            "url": url,
            "key": keys[name],
            "virtual_deployments": [
                {"name": virtual, "standins": [{"name": standin} for standin in standins]}
                | ({"fallback": fallbacks[virtual]} if virtual in fallbacks else {})
                for virtual, standins in pools[name].items()
            ],
        }
        for name, url in urls.items()
        if name in pools
    ]
    aoai = {"endpoints": endpoints, **sections.pop("aoai", {})}
    return {"aoai": aoai, "clients": [{"name": "Tester", "key": CLIENT_KEY}], **sections}
