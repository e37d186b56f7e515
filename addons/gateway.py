"""The script for ``mitmdump -s addons/gateway.py`` (or mitmproxy, or mitmweb).

mitmproxy puts this folder on sys.path, and executes this file again whenever it is saved. All else is in
the package, which stays.
"""

from aoai_gateway.app.addon import addons

__all__ = ["addons"]
