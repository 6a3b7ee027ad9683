"""What a `Content-Type` says, without its parameters: a boundary may hold any word."""

from __future__ import annotations


def media_type(header: str | None) -> str:
    """`multipart/form-data` for `Multipart/Form-Data ; boundary=json`; empty where nothing is said."""
    return (header or "").partition(";")[0].strip().lower()


def is_json(header: str | None) -> bool:
    """Whether it is JSON: `application/json`, or any type that ends with `+json`."""
    kind = media_type(header)
    return kind == "application/json" or kind.endswith("+json")
