"""mitmweb's filter boxes, made to take ``~meta``: what is known of a call is in its flow's metadata.

mitmweb's server knows all of mitmproxy's filters and evaluates them. Its page has a grammar of its own to
say what is wrong with an expression, and that one lacks ``~meta``: the box turns red, and nothing is sent.
So the page's script is served with a change: before the grammar sees an expression, each ``~meta`` in it
becomes a ``~comment``, which is written in the same way. What is sent stays as it was typed. Where a later
mitmweb is built otherwise, nothing matches, and it works as it does without us.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tornado import web

if TYPE_CHECKING:
    from tornado.web import Application

_PATH = r"/static/([\w.-]+\.js)"

_CHECK = re.compile(
    r"isValid\(([\w$]+)\)\{try\{return \1&&([\w$]+)\.parse\(\1\),!0\}catch\{return!1\}\}"
    r"(getDesc\(\)\{.{0,200}?try\{return )\2\.parse\(this\.state\.value\)\.desc\}",
    re.DOTALL,
)
"""The two places where the page parses an expression: whether it is one, and what it means."""

_KNOWN = '.replace(/~meta\\b/g,"~comment")'


def _amended(found: re.Match[str]) -> str:
    value, grammar, describe = found.groups()
    return (
        f"isValid({value}){{try{{return {value}&&{grammar}.parse({value}{_KNOWN}),!0}}catch{{return!1}}}}"
        f"{describe}(v=>{{const d={grammar}.parse(v{_KNOWN}).desc;"
        'return /~meta\\b/.test(v)&&!v.includes("~comment")?'
        'd.replaceAll("comment matches","metadata match"):d})'
        "(this.state.value)}"
    )


def amend(script: str) -> str:
    """Give the page's script with the change, or any other as it is."""
    return _CHECK.sub(_amended, script, count=1)


class ScriptHandler(web.RequestHandler):
    """Serves one of mitmweb's scripts."""

    def get(self, name: str) -> None:
        """Answer with the script."""
        folder = Path(self.application.settings["static_path"])
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise web.HTTPError(404)
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(amend(path.read_text(encoding="utf-8")))


def extend(application: Application) -> None:
    """Have mitmweb serve the changed script; again, after a reload, changes nothing."""
    if not application.settings.get("aoai_gateway_search_box"):
        application.settings["aoai_gateway_search_box"] = True
        application.add_handlers(r".*", [(_PATH, ScriptHandler)])
