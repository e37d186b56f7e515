"""Attributes of OTLP's messages: of spans, of points of metrics, of the resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


def describe(about: Span | HistogramDataPoint | Resource, attributes: Mapping[str, Any]) -> None:
    """Add attributes to a message. Values are texts, numbers, truth values, or tuples of these."""
    for name, value in attributes.items():
        added = about.attributes.add()
        added.key = name
        _set(added.value, value)


def _set(message: AnyValue, value: Any) -> None:
    match value:
        case str():
            message.string_value = text(value)
        case bool():
            message.bool_value = value
        case int():
            message.int_value = value
        case float():
            message.double_value = value
        case _:
            message.array_value.SetInParent()
            for each in value:
                _set(message.array_value.values.add(), each)


def text(value: str) -> str:
    """Return text that can be encoded: halves of surrogate pairs become question marks."""
    return value if value.isascii() else value.encode(errors="replace").decode()
