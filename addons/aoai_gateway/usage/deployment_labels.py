"""Names of deployments as labels of metrics: each is a series, and clients may make names up.

A name has a label of its own if the configuration has the deployment, or if a backend has once answered a
call for it well, as where every name is passed on to Azure. In any case there is a bound.
"""

from __future__ import annotations

MOST_DEPLOYMENTS = 200

OTHER = "(other)"


class DeploymentLabels:
    """The labels that have been given."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {"": ""}

    def label(self, deployment: str, *, exists: bool) -> str:
        """Return the label of a deployment. ``exists``: whether this call shows that there is one."""
        # Azure makes no difference between upper and lower case.
        key = deployment.casefold()
        found = self._labels.get(key)
        if found is not None:
            return found
        if not exists or len(self._labels) > MOST_DEPLOYMENTS:
            return OTHER
        self._labels[key] = deployment
        return deployment
