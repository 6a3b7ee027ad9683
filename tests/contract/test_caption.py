"""Captions: label → text → label, strict and without a crash on any text."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from contract.caption import CaptionFormat
from contract.labels import FOOD101

IDS, NAMES = CaptionFormat(), CaptionFormat(target="name")


def test_every_label_survives_both_directions() -> None:
    for form in (IDS, NAMES):
        for label in FOOD101:
            assert form.parse(form.render(label), FOOD101) == label
    assert IDS.render(FOOD101[6]) == "a photo of delicious 6"
    assert NAMES.render(FOOD101[1]) == "a photo of delicious baby back ribs"


def test_spelling_does_not_count() -> None:
    assert IDS.parse("  A Photo of  delicious 6 ", FOOD101) == FOOD101[6]
    assert NAMES.parse("a photo of delicious Crème-Brûlée.", FOOD101) == FOOD101.find("creme_brulee")


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "6", "delicious 6", "a photo of delicious", "a photo of delicious 101", "a photo of delicious 341",
        "a photo of delicious 006", "a photo of delicious -6", "a photo of delicious 6.0", "a photo of delicious ²",
        "a photo of delicious ٦", "a photo of delicious 6 6", "a photo of delicious beignets", "a photo of 6",
        "a photo of delicious " + "9" * 5000, "\x00", "\ud800", "{target}", "a photo of delicious {target}",
    ],
)  # fmt: skip
def test_what_names_no_id(text: str) -> None:
    assert IDS.parse(text, FOOD101) is None


@pytest.mark.parametrize(
    "text", ["a photo of delicious", "a photo of delicious 6", "a photo of delicious pie", "apple pie"]
)
def test_what_names_no_name(text: str) -> None:
    assert NAMES.parse(text, FOOD101) is None


def test_no_text_crashes() -> None:
    rng = random.Random(0)
    pieces = [
        "a photo of delicious",
        " ",
        "6",
        "²",
        "é",
        "\u0301",
        "\x00",
        "{",
        "}",
        "\n",
        "100",
        "0",
        "🍕",
        "\udfff",
        "ﬁ",
    ]
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randrange(6)))
        for form in (IDS, NAMES):
            found = form.parse(text, FOOD101)
            assert found is None or found in FOOD101.labels


@pytest.mark.parametrize(
    "template", ["no target", "{target} first", "{target}", "a {target} b {target}", "glued{target}"]
)
def test_refuses_templates_that_cannot_be_scored(template: str) -> None:
    with pytest.raises(ValidationError, match="template"):
        CaptionFormat(template=template)
