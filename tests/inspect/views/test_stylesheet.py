"""mitmweb's stylesheets, as they are and with ours at their end."""

from __future__ import annotations

from pathlib import Path

from mitmproxy.tools import web
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from aoai_gateway.inspect.views.stylesheet import RULES, extend

STATIC = Path(web.__file__).parent / "static"


class StylesheetTest(AsyncHTTPTestCase):
    """Requests to an application like mitmweb's."""

    def get_app(self) -> Application:
        application = Application([], static_path=str(STATIC))
        extend(application)
        extend(application)
        return application

    def test_the_one_for_content_views_has_our_rules(self) -> None:
        bodies = {
            path.name: self.fetch(f"/static/{path.name}").body.decode() for path in STATIC.glob("*.css")
        }
        extended = [name for name, body in bodies.items() if body.endswith(RULES)]
        assert len(extended) == 1
        for name, body in bodies.items():
            assert body.removesuffix(RULES) == (STATIC / name).read_text()

    def test_everything_else_is_served_as_before(self) -> None:
        for path in STATIC.glob("*.js"):
            assert self.fetch(f"/static/{path.name}").body == path.read_bytes()
        assert self.fetch("/static/nothing.css").code == 404
        assert self.fetch("/static/..%2f..%2fx.css").code == 403
