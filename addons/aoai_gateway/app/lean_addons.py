"""mitmproxy's package of addons, without those that the lean host has no use for.

`mitmproxy.addons` imports all of its modules, and they Flask, an LDAP client and more: 260 modules, 12 MB of
memory in each process, a quarter of a second at the start. The lean host uses a dozen of the addons. So the
package is put in place without what it runs, and its modules come as they are asked for. A plugin that wants
more of the package than a module gets it: then it is run after all.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

PACKAGE = "mitmproxy.addons"


def install() -> None:
    """Put the package in place; one that has been imported already stays as it is."""
    if PACKAGE in sys.modules:
        return
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.loader is None:  # importing it will say what is wrong
        return
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        full = f"{PACKAGE}.{name}"
        if importlib.util.find_spec(full) is not None:
            return importlib.import_module(full)
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = missing  # type: ignore[method-assign]  # a module may have one (PEP 562)
    sys.modules[PACKAGE] = package
    sys.modules["mitmproxy"].addons = package  # type: ignore[attr-defined]  # as an import does
