"""The workbench's HTTP interface: the same in mitmweb and on the admin listener.

Paths are below ``/workbench``; bodies and answers are JSON, errors ``{"error": {"message"}}``.

======================================  =====================================================================
``GET /``, ``GET /NAME``                the page and its files; they hold no data
``GET /api/setup``                      deployments, backends, clients, …: what there is to choose from
``GET /api/calls``                      server-sent events: ``rows`` (lines, new and changed), ``gone`` (ids)
``GET /api/calls/ID``                   one call, as `documents.document` gives it
``GET /api/calls/ID/part?pointer=``     a long string of its request, whole: an image, a pasted book
``GET /api/calls/ID/code?language=``    the call as code
``GET /api/search?text=``               ids of the calls whose prompt or answer has the text in it
``POST /api/count``                     the tokens of an edited prompt, and their price
``POST /api/runs``                      run an edited prompt; answers ``{"run": id}``
``GET, DELETE /api/runs/ID``            server-sent events of a run: ``entries``; end it
``POST /api/hold``                      hold the calls of a client from now on, or none
``PUT /api/calls/ID``                   give a held call another body
``POST /api/calls/ID/release, drop``    let it go, or end it
``POST /api/check``                     check an answer against expectations
``GET /api/sets``                       the sets of cases
``GET, PUT /api/sets/NAME``             one set: ``set`` and ``version``; a PUT with the version that it is to
                                        replace is refused where there is another by now
``POST /api/sets/NAME/cases``           add a ``case`` to a set
======================================  =====================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aoai_gateway.workbench import call_handlers, run_handlers
from aoai_gateway.workbench.handler import PageHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tornado.routing import Rule

    from aoai_gateway.workbench.access import Access
    from aoai_gateway.workbench.bench import Bench


def rules(bench: Bench, access: Access) -> Sequence[Rule | tuple[Any, ...]]:
    """Return the handlers, for a tornado application."""
    settings = {"bench": bench, "access": access}
    ident = r"([0-9a-f-]{1,64})"
    found = [
        (r"", PageHandler),
        (r"/", PageHandler),
        (r"/api/setup", call_handlers.SetupHandler),
        (r"/api/calls", call_handlers.CallsHandler),
        (rf"/api/calls/{ident}", call_handlers.CallHandler),
        (rf"/api/calls/{ident}/part", call_handlers.PartHandler),
        (rf"/api/calls/{ident}/code", call_handlers.CodeHandler),
        (rf"/api/calls/{ident}/(release|drop)", call_handlers.HeldHandler),
        (r"/api/search", call_handlers.SearchHandler),
        (r"/api/count", run_handlers.CountHandler),
        (r"/api/runs", run_handlers.StartRunHandler),
        (rf"/api/runs/{ident}", run_handlers.RunHandler),
        (r"/api/hold", call_handlers.HoldHandler),
        (r"/api/check", run_handlers.CheckHandler),
        (r"/api/sets", run_handlers.SetsHandler),
        (r"/api/sets/([^/]{1,80})", run_handlers.SetHandler),
        (r"/api/sets/([^/]{1,80})/cases", run_handlers.CasesHandler),
        (r"/([a-z_/]{1,64}\.[a-z]{2,4})", PageHandler),
    ]
    return [(f"/workbench{path}", handler, settings) for path, handler in found]
