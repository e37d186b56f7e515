"""mitmweb's scripts: one is changed, for its filter boxes, its command bar and its editor."""

from __future__ import annotations

import re
from pathlib import Path

from mitmproxy.tools import web
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from aoai_gateway.inspect.views.page_script import amend, extend

STATIC = Path(web.__file__).parent / "static"


class PageScriptTest(AsyncHTTPTestCase):
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

    def test_there_is_no_other_file(self) -> None:
        assert self.fetch("/static/nothing.js").code == 404
        assert self.fetch("/static/..%2f..%2fx.js").code == 403


def test_a_script_that_is_built_otherwise_stays_as_it_is() -> None:
    script = (
        'isValid(e){return check(e)}getDesc(){return parse(this.state.value)} "~comment"'
        "()=>r.put(`/flows/${t.id}`,e);result:JSON.stringify(e.value||f.error);a=S.getContentURL(s,i),e[0]=s"
    )
    assert amend(script) == script
