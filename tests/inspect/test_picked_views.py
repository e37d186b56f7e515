"""The content views beside Prompt and Completion: a comparison as text, a call as code."""

from __future__ import annotations

import mitmproxy_rs.syntax_highlight
import pytest
from mitmproxy import contentviews, exceptions, flow
from mitmproxy.contentviews import Metadata
from mitmproxy.test import tflow

from aoai_gateway.inspect.compare import NOWHERE
from aoai_gateway.inspect.picked_views import ComparisonContentview, SnippetContentview
from aoai_gateway.inspect.snippets import FORMATS

TABLE = "        gpt-4o │ gpt-4o-mini\n─────────────────────\nstatus  200    │ 200\n".encode()


def test_a_comparison_is_shown_as_text() -> None:
    compared = tflow.tflow(resp=True)
    compared.request.host = NOWHERE
    assert compared.response is not None
    compared.response.content = TABLE
    view = ComparisonContentview()
    metadata = Metadata(flow=compared, http_message=compared.response)
    assert view.render_priority(TABLE, metadata) > max(
        other.render_priority(TABLE, metadata) for other in contentviews.registry.values()
    )
    assert view.prettify(TABLE, metadata) == TABLE.decode()


def test_nothing_else_is_a_comparison() -> None:
    view, call = ComparisonContentview(), tflow.tflow(resp=True)
    assert view.render_priority(TABLE, Metadata(flow=call, http_message=call.response)) < 0
    call.request.host = NOWHERE
    assert view.render_priority(b"", Metadata(flow=call, http_message=call.request)) < 0
    assert view.render_priority(TABLE, Metadata()) < 0


@pytest.mark.parametrize("language", FORMATS)
def test_a_request_is_offered_as_code_and_never_chosen(language: str) -> None:
    view, call = SnippetContentview(language, lambda flow: f"for {flow.id}"), tflow.tflow(resp=True)
    request = Metadata(flow=call, http_message=call.request)
    assert 0 < view.render_priority(b"", request) < 1
    assert view.render_priority(b"", Metadata(flow=call, http_message=call.response)) < 0
    assert view.prettify(b"", request) == f"for {call.id}"
    assert view.syntax_highlight in mitmproxy_rs.syntax_highlight.languages()


def test_what_cannot_be_written_as_code_is_told() -> None:
    def refuse(_: flow.Flow) -> str:
        raise exceptions.CommandError("This is no call to Azure OpenAI.")

    view = SnippetContentview("python", refuse)
    with pytest.raises(ValueError, match="no call to Azure"):
        view.prettify(b"", Metadata(flow=tflow.tflow()))
    with pytest.raises(ValueError, match="no call"):
        view.prettify(b"", Metadata())
