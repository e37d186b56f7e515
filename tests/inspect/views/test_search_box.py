"""mitmweb's scripts: one is changed in one place, so that its filter boxes take ~meta."""

from __future__ import annotations

from pathlib import Path

from mitmproxy.tools import web
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from aoai_gateway.inspect.views.search_box import amend, extend

STATIC = Path(web.__file__).parent / "static"


class SearchBoxTest(AsyncHTTPTestCase):
    """Requests to an application like mitmweb's."""

    def get_app(self) -> Application:
        application = Application([], static_path=str(STATIC))
        extend(application)
        extend(application)
        return application

    def test_one_script_is_changed_in_one_place(self) -> None:
        changed = []
        for path in STATIC.glob("*.js"):
            body, script = self.fetch(f"/static/{path.name}").body.decode(), path.read_text()
            if body != script:
                changed.append((body, script))
        ((body, script),) = changed
        assert body.count("~meta") == script.count("~meta") + 3
        start = next(i for i, (one, other) in enumerate(zip(body, script, strict=False)) if one != other)
        assert "isValid" in body[start - 40 : start]
        assert body[-1000:] == script[-1000:]

    def test_there_is_no_other_file(self) -> None:
        assert self.fetch("/static/nothing.js").code == 404
        assert self.fetch("/static/..%2f..%2fx.js").code == 403


def test_a_script_that_is_built_otherwise_stays_as_it_is() -> None:
    script = 'isValid(e){return check(e)}getDesc(){return parse(this.state.value)} "~comment"'
    assert amend(script) == script
