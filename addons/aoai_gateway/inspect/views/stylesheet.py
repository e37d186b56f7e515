"""mitmweb's own stylesheet, with a few rules more: so that a prompt can be read there.

mitmweb neither wraps the lines of a content view nor gives an empty line any height: of a paragraph one
sees the first words, and of a text with paragraphs none of the gaps. It has no way to add styles. So its
stylesheets are served with ours at their end. Where a later mitmweb is built otherwise, nothing matches,
and it looks as it does without us.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tornado import web

if TYPE_CHECKING:
    from tornado.web import Application

RULES = """
/* aoai-gateway: long lines of a prompt wrap, and empty ones are seen */
.flow-detail .contentview pre { white-space: pre-wrap; word-break: normal; overflow-wrap: anywhere; }
.flow-detail .contentview pre > div:empty::before { content: "\\200b"; }
/* and a call's comment has room in the flow list */
.flow-table .col-comment { width: 62%; }
.flow-table .col-path { padding: 0 6px; }
.flow-table td.col-path { direction: rtl; text-align: left; } /* its end tells more than its begin */
.flow-table td.col-comment { text-align: left; }
.command-result { white-space: pre-wrap; }
/* a prompt comes before its headers, and is edited with its lines wrapped */
.flow-detail section.request, .flow-detail section.response { display: flex; flex-direction: column; }
.flow-detail section > .contentview { order: 1; }
.flow-detail section > hr { order: 2; margin: 10px 0; }
.flow-detail section > .headers, .flow-detail section > .trailers, .flow-detail section > h5 { order: 3; }
.flow-detail section > * { flex: none; }
.flow-detail .contentview .controls { position: relative; }
/* where mitmweb opens the menu upwards there is no room now */
.flow-detail .contentview .controls .dropdown-menu {
  transform: none !important; left: auto !important; right: 0; top: 100% !important; max-height: 60vh; }
.flow-detail .contentview .cm-content { white-space: break-spaces; overflow-wrap: anywhere; flex-shrink: 1; }
"""

_PATH = r"/static/([\w.-]+\.css)"
_DETAIL = re.compile(r"\.contentview\b")


class StylesheetHandler(web.RequestHandler):
    """Serves one of mitmweb's stylesheets; the one for its content views has ours at its end."""

    def get(self, name: str) -> None:
        """Answer with the stylesheet."""
        folder = Path(self.application.settings["static_path"])
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise web.HTTPError(404)
        sheet = path.read_text(encoding="utf-8")
        self.set_header("Content-Type", "text/css; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(sheet + RULES if _DETAIL.search(sheet) else sheet)


def extend(application: Application) -> None:
    """Have mitmweb serve the rules; again, after a reload, changes nothing."""
    if not application.settings.get("aoai_gateway_styles"):
        application.settings["aoai_gateway_styles"] = True
        application.add_handlers(r".*", [(_PATH, StylesheetHandler)])
