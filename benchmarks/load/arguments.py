"""Numbers on a command line, with limits; what is outside is told with the limits, exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def number(least: float, most: float) -> Callable[[str], float]:
    """A type for `argparse`: a number within limits."""

    def parse(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
        return value

    return parse


def whole(least: int, most: int) -> Callable[[str], int]:
    """A whole number within limits."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value

    return parse


def numbers(kind: Callable[[str], Any], least: float, most: float) -> Callable[[str], tuple[Any, ...]]:
    """Numbers with commas between, each within limits and once."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            found = tuple(dict.fromkeys(kind(part) for part in text.split(",")))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,8") from None
        for value in found:
            if not least <= value <= most:
                raise argparse.ArgumentTypeError(f"{value} is not from {least:g} to {most:g}")
        return found

    return parse
