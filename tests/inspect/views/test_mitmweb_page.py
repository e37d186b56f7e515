"""mitmweb's files: a script is changed, for filter boxes, command bar and editor, and so is a stylesheet."""

from __future__ import annotations

import re
from pathlib import Path

from mitmproxy.tools import web
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from aoai_gateway.inspect.views.mitmweb_page import RULES, amend, extend

STATIC = Path(web.__file__).parent / "static"


class MitmwebPageTest(AsyncHTTPTestCase):
    """Requests to an application like mitmweb's."""

    def get_app(self) -> Application:
        application = Application([], static_path=str(STATIC))
        extend(application)
        extend(application)
        return application

    def test_one_script_is_changed_in_its_places(self) -> None:
        changed = []
        for path in STATIC.glob("*.js"):
            body, script = self.fetch(f"/static/{path.name}").body.decode(), path.read_text()
            if body != script:
                changed.append((body, script))
        ((body, script),) = changed
        assert body.count("~meta") == script.count("~meta") + 3
        assert re.search(r"isValid\([\w$]+\)\{try\{return [\w$]+&&[\w$]+\.parse\([\w$]+\.replace\(", body)
        assert body[-1000:] == script[-1000:]
        assert body.count("content.edit") == 2
        assert "result:JSON.stringify(" in script
        assert "result:JSON.stringify(" not in body

    def test_there_is_no_other_script(self) -> None:
        assert self.fetch("/static/nothing.js").code == 404
        assert self.fetch("/static/..%2f..%2fx.js").code == 403

    def test_the_one_for_content_views_has_our_rules(self) -> None:
        bodies = {
            path.name: self.fetch(f"/static/{path.name}").body.decode() for path in STATIC.glob("*.css")
        }
        extended = [name for name, body in bodies.items() if body.endswith(RULES)]
        assert len(extended) == 1
        for name, body in bodies.items():
            assert body.removesuffix(RULES) == (STATIC / name).read_text()

    def test_everything_else_is_served_as_before(self) -> None:
        for path in STATIC.glob("*.ico"):
            assert self.fetch(f"/static/{path.name}").body == path.read_bytes()
        assert self.fetch("/static/nothing.css").code == 404
        assert self.fetch("/static/..%2f..%2fx.css").code == 403


def test_a_script_that_is_built_otherwise_stays_as_it_is() -> None:
    script = (
        'isValid(e){return check(e)}getDesc(){return parse(this.state.value)} "~comment"'
        "()=>r.put(`/flows/${t.id}`,e);result:JSON.stringify(e.value||f.error);a=S.getContentURL(s,i),e[0]=s"
    )
    assert amend(script) == script
