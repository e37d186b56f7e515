"""mitmweb's script and stylesheet, changed: what it has no other way to be given.

- Its filter boxes take ``~meta``: what is known of a call is in its flow's metadata. mitmweb's server knows
  all of mitmproxy's filters and evaluates them. Its page has a grammar of its own to say what is wrong with
  an expression, and that one lacks ``~meta``: the box turns red, and nothing is sent. So before the grammar
  sees an expression, each ``~meta`` in it becomes a ``~comment``, which is written in the same way. What is
  sent stays as it was typed.
- The result of a command is shown as text, its lines as lines, and not as a line of JSON.
- *Edit* opens a prompt as the console does, and says why an edit was refused (see `prompt_editor`).
- A prompt can be read: mitmweb neither wraps the lines of a content view nor gives an empty line any height.
  Of a paragraph one sees the first words, and of a text with paragraphs none of the gaps.

Where a later mitmweb is built otherwise, nothing matches, and it works and looks as it does without us.
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

_PATH = r"/static/([\w.-]+\.(?:css|js))"

_DETAIL = re.compile(r"\.contentview\b")

_CHECK = re.compile(
    r"isValid\(([\w$]+)\)\{try\{return \1&&([\w$]+)\.parse\(\1\),!0\}catch\{return!1\}\}"
    r"(getDesc\(\)\{.{0,200}?try\{return )\2\.parse\(this\.state\.value\)\.desc\}",
    re.DOTALL,
)
"""The two places where the page parses an expression: whether it is one, and what it means."""

_KNOWN = '.replace(/~meta\\b/g,"~comment")'

_RESULT = re.compile(r"result:JSON\.stringify\(([\w$]+)\.value\|\|\1\.error\)")
"""Where the command bar takes an answer."""

_PUT = re.compile(r"\(\)=>([\w$]+)\.put\(`/flows/\$\{")
"""How the page sends a change of a flow."""

_EDIT = re.compile(
    r"(?P<read>[\w$]+\.getContentURL\([\w$]+,[\w$]+\))"
    r"(?P<between>,.{1,80};const [\w$]+=[\w$]+\([\w$]+,[\w$]+\.contentHash\),\[[\w$]+,[\w$]+\]=.{1,400}?)"
    r"await (?P<save>[\w$]+\([\w$]+\((?P<flow>[\w$]+),"
    r"\{\[(?P<part>[\w$]+)\]:\{content:(?P<content>[^{}]{1,40})\}\}\)\))"
    r",(?P<close>[\w$]+\(\))",
    re.DOTALL,
)
"""Where the editor of a flow's content reads it, and where it saves it and closes."""


def _filter(found: re.Match[str]) -> str:
    value, grammar, describe = found.groups()
    return (
        f"isValid({value}){{try{{return {value}&&{grammar}.parse({value}{_KNOWN}),!0}}catch{{return!1}}}}"
        f"{describe}(v=>{{const d={grammar}.parse(v{_KNOWN}).desc;"
        'return /~meta\\b/.test(v)&&!v.includes("~comment")?'
        'd.replaceAll("comment matches","metadata match"):d})'
        "(this.state.value)}"
    )


def _result(found: re.Match[str]) -> str:
    return (
        'result:(v=>v==null?"Done.":typeof v=="string"?v:'
        'Array.isArray(v)&&v.every(e=>typeof e=="string")?v.join("\\n"):JSON.stringify(v,null,2))'
        f"({found[1]}.error??{found[1]}.value)"
    )


def _editor(put: str, found: re.Match[str]) -> str:
    address = f"`/flows/${{{found['flow']}.id}}/request/content.edit`"
    return (
        f'{found["read"]}.replace("/request/content.data","/request/content.edit"){found["between"]}'
        f'if({found["part"]}!=="request")await {found["save"]};'
        f"else{{const answer=await {put}.put({address},{{content:{found['content']}}});"
        f"if(!answer.ok){{alert(await answer.text());return}}}}{found['close']}"
    )


def amend(script: str) -> str:
    """Return the page's script with the changes, or any other as it is."""
    script = _CHECK.sub(_filter, script, count=1)
    script = _RESULT.sub(_result, script, count=1)
    put = _PUT.search(script)
    return script if put is None else _EDIT.sub(lambda found: _editor(put[1], found), script, count=1)


def styled(sheet: str) -> str:
    """Return the stylesheet of content views with the rules at its end, or any other as it is."""
    return sheet + RULES if _DETAIL.search(sheet) else sheet


class FileHandler(web.RequestHandler):
    """Serves one of mitmweb's scripts or stylesheets."""

    def get(self, name: str) -> None:
        """Answer with the file, changed."""
        folder = Path(self.application.settings["static_path"])
        path = folder / name
        if path.parent != folder or not path.is_file():
            raise web.HTTPError(404)
        kind, change = ("css", styled) if path.suffix == ".css" else ("javascript", amend)
        self.set_header("Content-Type", f"text/{kind}; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(change(path.read_text(encoding="utf-8")))


def extend(application: Application) -> None:
    """Have mitmweb serve the changed files; again, after a reload, changes nothing."""
    if not application.settings.get("aoai_gateway_page"):
        application.settings["aoai_gateway_page"] = True
        application.add_handlers(r".*", [(_PATH, FileHandler)])
