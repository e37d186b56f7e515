"""Logs what the gateway has written on a flow, when its answer has come."""

from __future__ import annotations

import logging

from mitmproxy.http import HTTPFlow


def response(flow: HTTPFlow) -> None:
    """Log the comment, and how many lines the story has."""
    logging.info("comment: %s; story: %d", flow.comment, len(flow.metadata.get("gateway_story", ())))
