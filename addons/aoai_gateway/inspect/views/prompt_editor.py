"""What mitmweb's *Edit* opens of a request: a prompt as YAML, as the console does; anything else as it is.

``GET /flows/ID/request/content.edit`` gives the text, ``PUT`` with ``{"content": text}`` takes it back. A
text that is not valid changes nothing: the answer, 409, is a sentence that says where the mistake is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mitmproxy.http import HTTPFlow
from mitmproxy.tools.web.app import RequestHandler
from tornado import web

from aoai_gateway.inspect.views import prompt
from aoai_gateway.inspect.views.contentviews import facts_in
from aoai_gateway.inspect.views.shapes import Unreadable, decode
from aoai_gateway.inspect.views.yaml_reader import EditError

if TYPE_CHECKING:
    from tornado.web import Application

    from aoai_gateway.inspect.views.facts import Facts

_PATH = r"/flows/(?P<flow_id>[0-9a-f\-]+)/request/content.edit"

LARGEST = 1024 * 1024
"""Bytes of a prompt that is laid out for it; the workbench edits larger ones."""


def text_of(body: bytes, facts: Facts) -> str:
    """Return a request's body as it is edited."""
    return prompt.show(body, facts, None, None) if _is_prompt(body, facts) else body.decode(errors="replace")


def body_of(text: str, body: bytes, facts: Facts) -> bytes:
    """Return the body that an edited text stands for. Raises EditError that says where it is wrong."""
    if _is_prompt(body, facts):
        return prompt.reencode(text, body, facts)
    edited = text.encode(errors="surrogateescape")
    if text == body.decode(errors="replace"):
        return body
    if facts.operation:
        try:
            decode(edited)
        except Unreadable as error:
            raise EditError(str(error)) from None
    return edited


def _is_prompt(body: bytes, facts: Facts) -> bool:
    if not facts.operation or len(body) > LARGEST:
        return False
    try:
        return isinstance(decode(body), dict)
    except Unreadable:
        return False


class EditHandler(RequestHandler):
    """The text of one request."""

    def get(self, flow_id: str) -> None:
        """Send it."""
        _, body, facts = self._request()
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.write(text_of(body, facts).encode(errors="replace"))

    def put(self, flow_id: str) -> None:
        """Take it back."""
        flow, body, facts = self._request()
        text = self.json.get("content") if isinstance(self.json, dict) else None
        if not isinstance(text, str):
            raise web.HTTPError(400)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        try:
            edited = body_of(text, body, facts)
        except EditError as error:
            self.set_status(409)
            self.write(f"Nothing was changed: {error}.")
            return
        if edited != body:
            flow.backup()
            flow.request.content = edited
            self.view.update([flow])

    def _request(self) -> tuple[HTTPFlow, bytes, Facts]:
        flow = self.flow
        if not isinstance(flow, HTTPFlow):
            raise web.HTTPError(404)
        body = flow.request.get_content(strict=False) or b""
        return flow, body, facts_in(flow, flow.request)


def extend(application: Application) -> None:
    """Have mitmweb serve it; again, after a reload, changes nothing."""
    if not application.settings.get("aoai_gateway_edit"):
        application.settings["aoai_gateway_edit"] = True
        application.add_handlers(r".*", [(_PATH, EditHandler)])
