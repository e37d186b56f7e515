"""PowerProxy's vocabulary: what its configuration may say that ours does not.

Its file loads unchanged. What has a meaning here is honoured, what has none is named in one warning, and
what would silently weaken a rule that its user relies on is a problem.
"""

from collections.abc import Iterator
from urllib.parse import quote

from aoai_gateway.config.document import Entry, Mapping, Node, Scalar, Sequence
from aoai_gateway.config.fields import PLACEHOLDER
from aoai_gateway.config.problems import KeyPath, Place, Problem, did_you_mean, listed, problem

WITHOUT_MEANING = (
    "azure_subscription_id",
    "region",
    "resource_group",
    "unique_prefix",
)
"""Top-level keys that only PowerProxy's deployment scripts read."""

IDENTITY = "user_assigned_managed_identity_client_id"
"""Which managed identity it signs in with; the system-assigned one, if it is absent or a placeholder."""

PLUGINS = {
    "AllowDeployments": (),
    "LimitUsage": ("redis",),
    "LogUsageToConsole": (),
    "LogUsageToCsvFile": (),
    "LogUsageToLogAnalytics": (
        "log_ingestion_endpoint",
        "data_collection_rule_id",
        "credential_tenant_id",
        "credential_client_id",
        "credential_client_secret",
    ),
}
"""Its plugins, and the settings of each besides ``name``."""

TOP_LEVEL = (*WITHOUT_MEANING, IDENTITY, "plugins")
"""Every top-level key that is accepted for its sake."""

_REQUIRED_BY_PLUGIN = {
    "AllowDeployments": (("deployments_allowed",), "say what the client may use"),
    "LimitUsage": (("max_tokens_per_minute_in_k", "max_tokens_per_minute"), "say how much it may use"),
}

_LOG_ANALYTICS = {
    "log_ingestion_endpoint": "endpoint",
    "data_collection_rule_id": "rule_id",
    "credential_tenant_id": "tenant_id",
    "credential_client_id": "client_id",
    "credential_client_secret": "client_secret",
}
"""The settings of LogUsageToLogAnalytics, and what they are called in a sink."""

CSV_FOLDER = "logs"
"""LogUsageToCsvFile writes to ``../logs``, as seen from PowerProxy's ``app``; here it is beside the file."""

_LIMIT = "max_tokens_per_minute_in_k"
_REDIS_KEYS = ("redis_host", "redis_password")
_REDIS_PORT = 6380
"""Its Redis is an Azure Cache, reached by TLS at this port, always."""


def translate(document: Mapping) -> tuple[Mapping, list[Problem], list[Problem]]:
    """Turn PowerProxy's keys into ours.

    Returns the document without them, the problems and the warnings.
    """
    translation = _Translation(document)
    return translation.run(), translation.problems, translation.warnings


class _Translation:
    def __init__(self, document: Mapping) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._ignored: list[tuple[Place, str]] = []
        self._identity_is_used = False
        """Whether a plugin takes the managed identity."""

    def run(self) -> Mapping:
        document = self.document
        for key in ("fixed_client", "FIXED_CLIENT"):
            if key in document.entries:
                self._problem(
                    document.entries[key].key_place,
                    (key,),
                    "is a key of old PowerProxy versions",
                    "remove it, and give one client uses_entra_id_auth: true",
                )
        self._ignored += [
            (document.entries[key].key_place, key) for key in WITHOUT_MEANING if key in document.entries
        ]
        document = self._without_nulls_that_would_open(self._plugins(document))
        aoai = document.get("aoai")
        if isinstance(aoai, Mapping):
            document = document.with_entries(
                aoai=self._aoai(self._identity(document, _without_empty_keys(aoai)))
            )
        self._name_what_is_ignored()
        dropped = ("fixed_client", "FIXED_CLIENT", *TOP_LEVEL)
        return document.with_entries(**dict.fromkeys(dropped))

    def _plugins(self, document: Mapping) -> Mapping:
        plugins = document.get("plugins")
        if plugins is None or (isinstance(plugins, Scalar) and plugins.text is None):
            return document
        if not isinstance(plugins, Sequence):
            self._problem(
                plugins.place, ("plugins",), "a list is expected", "write lines that begin with - name:"
            )
            return document
        names: set[str] = set()
        for index, plugin in enumerate(plugins.items):
            name = self._plugin(plugin, ("plugins", index))
            names |= {name} if name else set()
        self._require_what_plugins_need(document, names)
        if "AllowDeployments" not in names:
            self._enforced_anyway(document, plugins.place, "AllowDeployments", "deployments_allowed")
        if "LimitUsage" in names:
            self._one_limit_for_all(document)
        document = self._redis(document, plugins)
        if "LogUsageToConsole" in names and "usage_log" not in document.entries:
            document = document.with_entries(usage_log=Scalar(plugins.place, "stdout"))
        return self._sinks(document, plugins)

    def _sinks(self, document: Mapping, plugins: Sequence) -> Mapping:
        """The plugins that log usage elsewhere than to the console, as ``usage_sinks``."""
        sinks: dict[str, Node] = {}
        for index, plugin in enumerate(plugins.items):
            name = plugin.get("name") if isinstance(plugin, Mapping) else None
            match name:
                case Scalar(text="LogUsageToCsvFile"):
                    folder = Scalar(plugin.place, CSV_FOLDER)
                    sinks["csv"] = Mapping(plugin.place, {"folder": Entry(plugin.place, folder)})
                case Scalar(text="LogUsageToLogAnalytics"):
                    assert isinstance(plugin, Mapping)
                    if not self._has_placeholders(plugin, index):
                        sinks["log_analytics"] = self._log_analytics(document, plugin)
        if not sinks:
            return document
        written = document.get("usage_sinks")
        base = written if isinstance(written, Mapping) else Mapping(plugins.place, {})
        # What is written in our own words wins.
        added = {key: node for key, node in sinks.items() if key not in base.entries}
        return document.with_entries(usage_sinks=base.with_entries(**added))

    def _has_placeholders(self, plugin: Mapping, index: int) -> bool:
        unwritten = [key for key in _LOG_ANALYTICS if _is_placeholder(plugin.get(key))]
        for key in unwritten:
            self._problem(
                plugin.entries[key].key_place,
                ("plugins", index, key),
                "is still a placeholder",
                "write the real one, or remove the plugin if its rows are not wanted",
            )
        return bool(unwritten)

    def _log_analytics(self, document: Mapping, plugin: Mapping) -> Mapping:
        entries = {
            key: plugin.entries[theirs] for theirs, key in _LOG_ANALYTICS.items() if theirs in plugin.entries
        }
        identity = document.entries.get(IDENTITY)
        if identity is not None and not _is_placeholder(identity.node) and "client_secret" not in entries:
            entries["client_id"] = identity
            self._identity_is_used = True
        return Mapping(plugin.place, entries)

    def _plugin(self, plugin: Node, path: KeyPath) -> str | None:
        name = plugin.get("name") if isinstance(plugin, Mapping) else None
        if not isinstance(plugin, Mapping) or not isinstance(name, Scalar) or not name.text:
            self._problem(plugin.place, path, 'a plugin is written as "name: …"')
            return None
        if name.text not in PLUGINS:
            self._problem(
                name.place,
                (*path, "name"),
                "is not a plugin of PowerProxy, and its own plugins cannot run here",
                did_you_mean(name.text, PLUGINS) or "write it as a mitmproxy addon and load it with -s",
            )
            return None
        for key, entry in plugin.entries.items():
            if key not in ("name", *PLUGINS[name.text]):
                self._problem(
                    entry.key_place, (*path, key), "unknown key", did_you_mean(key, PLUGINS[name.text])
                )
        return name.text

    def _require_what_plugins_need(self, document: Mapping, plugins: set[str]) -> None:
        for plugin, (keys, suggestion) in _REQUIRED_BY_PLUGIN.items():
            if plugin not in plugins:
                continue
            for path, client in _policies(document, "clients"):
                said = (client, *_group_of(document, client))
                if not any(key in policy.entries for key in keys for policy in said):
                    self._problem(
                        client.place,
                        path,
                        f'"{keys[0]}" is missing: the plugin {plugin} requires it',
                        suggestion,
                    )

    def _enforced_anyway(self, document: Mapping, place: Place, plugin: str, key: str) -> None:
        policies = (*_policies(document, "clients"), *_policies(document, "groups"))
        if any(key in policy.entries for _, policy in policies):
            self._warning(place, ("plugins",), f"{plugin} is not listed, but {key} is always enforced here")

    def _one_limit_for_all(self, document: Mapping) -> None:
        """Tell whose number is for each deployment there and for all together here: a smaller share."""
        found = [
            (path, client, limit)
            for path, client in _policies(document, "clients")
            if isinstance(limit := client.get(_LIMIT), Scalar) and limit.text and _may_use_several(client)
        ]
        if found:
            path, _, limit = found[0]
            names = listed(
                name.text if isinstance(name := client.get("name"), Scalar) and name.text else "a client"
                for _, client, _ in found
            )
            self._warning(
                limit.place,
                (*path, _LIMIT),
                f"is for all deployments together, not for each as in PowerProxy (at {names})",
                "write a mapping (deployment: limit) for one each",
            )

    def _redis(self, document: Mapping, plugins: Sequence) -> Mapping:
        """``LimitUsage`` can share its counts through Redis: here, that is what ``state`` says."""
        for index, plugin in enumerate(plugins.items):
            redis = plugin.get("redis") if isinstance(plugin, Mapping) else None
            if redis is None or "state" in document.entries:
                continue
            path: KeyPath = ("plugins", index, "redis")
            settings = {key: redis.get(key) for key in _REDIS_KEYS} if isinstance(redis, Mapping) else {}
            if any(isinstance(each, Scalar) and each.unresolved for each in settings.values()):
                continue  # a problem already
            texts = {
                key: each.text for key, each in settings.items() if isinstance(each, Scalar) and each.text
            }
            missing = [key for key in _REDIS_KEYS if key not in texts]
            if missing:
                self._problem(
                    redis.place,
                    path,
                    f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} missing",
                    'write it; or, for a server without a password, "state: redis://host:6379/0" at the top',
                )
                continue
            unwritten = next((key for key, text in texts.items() if PLACEHOLDER.fullmatch(text)), None)
            if unwritten is not None:
                advice = 'write the server\'s, or remove "redis:" if there is one gateway process'
                self._problem(redis.place, (*path, unwritten), "is still a placeholder", advice)
                return document
            host, password = texts["redis_host"], quote(texts["redis_password"], safe="")
            return document.with_entries(
                state=Scalar(redis.place, f"rediss://:{password}@{host}:{_REDIS_PORT}/0")
            )
        return document

    def _without_nulls_that_would_open(self, document: Mapping) -> Mapping:
        """``deployments_allowed:`` with nothing behind it allows nothing, as there; absent, everything."""
        for key in ("groups", "clients"):
            policies = document.get(key)
            if isinstance(policies, Sequence):
                items = tuple(_nothing_allowed(each) for each in policies.items)
                document = document.with_entries(**{key: Sequence(policies.place, items)})
        return document

    def _identity(self, document: Mapping, aoai: Mapping) -> Mapping:
        """Endpoints without a key are reached with the managed identity that the file names."""
        if IDENTITY not in document.entries:
            return aoai
        place, node = document.entries[IDENTITY].key_place, document.entries[IDENTITY].node
        endpoints = aoai.get("endpoints")
        items = endpoints.items if isinstance(endpoints, Sequence) else ()
        if "auth" in aoai.entries or not any(map(_lacks_credential, items)):
            if not self._identity_is_used:
                self._ignored.append((place, IDENTITY))
            return aoai
        identity = {"type": Entry(place, Scalar(place, "managed_identity"))}
        if isinstance(node, Scalar) and node.text and not _is_placeholder(node):
            identity["client_id"] = Entry(place, node)
        elif not (isinstance(node, Scalar) and node.unresolved):
            self._warning(
                place,
                (IDENTITY,),
                "names no identity: endpoints without a key are reached with the system-assigned one",
                'write its client id, or "auth:" at the endpoints',
            )
        return aoai.with_entries(auth=Mapping(place, identity))

    def _aoai(self, aoai: Mapping) -> Mapping:
        if "mock_response" in aoai.entries:
            self._problem(
                aoai.entries["mock_response"].key_place,
                ("aoai", "mock_response"),
                "canned answers are not supported",
                'give an endpoint "simulated:" instead of url and key; it answers like the real service',
            )
        endpoints = aoai.get("endpoints")
        for endpoint in endpoints.items if isinstance(endpoints, Sequence) else ():
            connections = endpoint.get("connections") if isinstance(endpoint, Mapping) else None
            if isinstance(connections, Mapping):
                self._ignore_connections(connections)
        return aoai.with_entries(mock_response=None)

    def _ignore_connections(self, connections: Mapping) -> None:
        timeouts = connections.get("timeouts")
        if "limits" in connections.entries:
            self._ignored.append((connections.entries["limits"].key_place, "connections.limits"))
        if isinstance(timeouts, Mapping):
            self._ignored += [
                (timeouts.entries[key].key_place, f"connections.timeouts.{key}")
                for key in ("write", "pool")
                if key in timeouts.entries
            ]

    def _name_what_is_ignored(self) -> None:
        if self._ignored:
            place, _ = self._ignored[0]
            names = listed(dict.fromkeys(name for _, name in self._ignored))
            self._warning(place, (), f"accepted for PowerProxy's sake, but without meaning here: {names}")

    def _problem(self, place: Place, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        self.problems.append(problem(place, path, message, suggestion))

    def _warning(self, place: Place, path: KeyPath, message: str, suggestion: str | None = None) -> None:
        self.warnings.append(problem(place, path, message, suggestion))


def _without_empty_keys(aoai: Mapping) -> Mapping:
    """PowerProxy wants the line ``key:`` everywhere, empty where the endpoint is reached in another way."""
    endpoints = aoai.get("endpoints")
    if not isinstance(endpoints, Sequence):
        return aoai
    items = tuple(
        each.with_entries(key=None) if isinstance(each, Mapping) and _is_empty(each.get("key")) else each
        for each in endpoints.items
    )
    return aoai.with_entries(endpoints=Sequence(endpoints.place, items))


def _is_placeholder(node: Node | None) -> bool:
    return isinstance(node, Scalar) and PLACEHOLDER.fullmatch(node.text or "") is not None


def _is_empty(node: Node | None) -> bool:
    # An empty variable is a mistake, and is told as one.
    return isinstance(node, Scalar) and not node.text and not node.unresolved and node.written is None


def _lacks_credential(endpoint: Node) -> bool:
    return isinstance(endpoint, Mapping) and not {"key", "auth", "simulated"} & endpoint.entries.keys()


def _policies(document: Mapping, key: str) -> Iterator[tuple[KeyPath, Mapping]]:
    policies = document.get(key)
    if isinstance(policies, Sequence):
        for index, policy in enumerate(policies.items):
            if isinstance(policy, Mapping):
                yield (key, index), policy


def _group_of(document: Mapping, client: Mapping) -> Iterator[Mapping]:
    name = client.get("group")
    for _, group in _policies(document, "groups"):
        other = group.get("name")
        if isinstance(name, Scalar) and isinstance(other, Scalar) and name.text == other.text:
            yield group


def _may_use_several(client: Mapping) -> bool:
    allowed = client.get("deployments_allowed")
    if isinstance(allowed, Scalar) and allowed.text is not None:
        return len([name for name in allowed.text.split(",") if name.strip()]) > 1
    return not isinstance(allowed, Sequence) or len(allowed.items) > 1


def _nothing_allowed(policy: Node) -> Node:
    if isinstance(policy, Mapping):
        for key in ("deployments_allowed", "endpoints_allowed"):
            allowed = policy.get(key)
            if isinstance(allowed, Scalar) and allowed.text is None:
                policy = policy.with_entries(**{key: Sequence(allowed.place, ())})
    return policy
