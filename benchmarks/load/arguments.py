"""Numbers on a command line, with limits; what is outside is told with the limits, exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def numbers(kind: Callable[[str], Any], least: float, most: float) -> Callable[[str], tuple[Any, ...]]:
    """A type for `argparse`: numbers with commas between, from `least` to `most`, each once."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            found = tuple(dict.fromkeys(kind(part) for part in text.split(",")))
        except ValueError:
            what = "numbers" if kind is float else "whole numbers"
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of {what} such as 1,8") from None
        for value in found:
            if not least <= value <= most:
                raise argparse.ArgumentTypeError(f"{value} is not from {least:g} to {most:g}")
        return found

    return parse


def number(least: float, most: float) -> Callable[[str], Any]:
    """One number."""
    return _one(float, least, most)


def whole(least: int, most: int) -> Callable[[str], Any]:
    """One whole number."""
    return _one(int, least, most)


def _one(kind: Callable[[str], Any], least: float, most: float) -> Callable[[str], Any]:
    many = numbers(kind, least, most)

    def parse(text: str) -> Any:
        if "," in text:
            raise argparse.ArgumentTypeError(f"{text!r} is not one number")
        return many(text)[0]

    return parse
