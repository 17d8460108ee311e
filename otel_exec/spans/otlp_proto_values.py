"""The parts of OTLP/JSON that spans and metrics share, as the official protobuf messages: resources, scopes, attributes, ids.

What comes in: decoded JSON. What goes out: messages. Raises what Python raises on what is not OTLP; `otlp_proto.to_request` makes one error of it.

Source: OTLP specification 1.5, "JSON Protobuf Encoding".
"""

from __future__ import annotations

import base64
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

__all__ = ["attributes_of", "id_of", "resource_of", "scope_of"]


def resource_of(resource: dict[str, Any]) -> Any:
    """Return a `Resource`."""
    return Resource(attributes=attributes_of(resource), dropped_attributes_count=resource.get("droppedAttributesCount", 0))


def scope_of(scope: dict[str, Any]) -> Any:
    """Return an `InstrumentationScope`."""
    return InstrumentationScope(
        name=scope.get("name", ""),
        version=scope.get("version", ""),
        attributes=attributes_of(scope),
        dropped_attributes_count=scope.get("droppedAttributesCount", 0),
    )


def attributes_of(of: dict[str, Any]) -> list[Any]:
    """Return the `KeyValue`s of whatever has attributes."""
    return [KeyValue(key=each["key"], value=_value(each.get("value") or {})) for each in of.get("attributes", ())]


def _value(value: dict[str, Any]) -> Any:
    for kind, content in value.items():
        if kind == "stringValue":
            return AnyValue(string_value=content)
        if kind == "intValue":
            return AnyValue(int_value=int(content))
        if kind == "boolValue":
            return AnyValue(bool_value=content)
        if kind == "doubleValue":
            return AnyValue(double_value=float(content))
        if kind == "arrayValue":
            return AnyValue(array_value=ArrayValue(values=[_value(each) for each in content.get("values", ())]))
        if kind == "kvlistValue":
            return AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=each["key"], value=_value(each["value"])) for each in content.get("values", ())]))
        if kind == "bytesValue":
            return AnyValue(bytes_value=base64.b64decode(content))
    return AnyValue()


def id_of(text: str, size: int, *, may_be_empty: bool = False) -> bytes:
    """Return a hex id's bytes; raises `ValueError` where it is not one of that size."""
    identity = bytes.fromhex(text)
    if len(identity) != size and not (may_be_empty and not identity):
        raise ValueError(f"{text!r} is not an id of {size} bytes")
    return identity
