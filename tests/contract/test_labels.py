"""Label sets: the hub's order, display names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contract.errors import ContractError
from contract.labels import FOOD101, LabelSet, display_name, match_key
from tests.conftest import shared_data


def test_food101_is_in_hub_order() -> None:
    assert len(FOOD101) == 101
    # torchvision sorts the keys and swaps the last two of these
    assert [FOOD101[i].name for i in (0, 6, 16, 17, 50, 100)] == [
        "apple_pie", "beignets", "cheesecake", "cheese_plate", "grilled_salmon", "waffles",
    ]  # fmt: skip
    assert FOOD101.names != sorted(FOOD101.names)


def test_food101_equals_the_data_sets_own_list() -> None:
    assert shared_data("food101_labels.txt").read_text().split() == FOOD101.names


@pytest.mark.parametrize(
    ("name", "display"),
    [
        ("baby_back_ribs", "Baby Back Ribs"), ("macaroni_and_cheese", "Macaroni and Cheese"),
        ("creme_brulee", "Crème Brûlée"), ("Already Fine", "Already Fine"),
    ],
)  # fmt: skip
def test_display_names(name: str, display: str) -> None:
    assert display_name(name) == display


def test_survives_a_round_trip(tmp_path: Path) -> None:
    labels = LabelSet.from_names(["zebra_cake", "crème brûlée", "apple"])
    labels.save(tmp_path / "labels.json")
    assert LabelSet.load(tmp_path / "labels.json") == labels
    assert labels.names == ["zebra_cake", "crème brûlée", "apple"], "the order is the data's"


def test_loads_plain_lists(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("pho\n\nramen\n")
    (tmp_path / "names.json").write_text('["pho", "ramen"]')
    assert LabelSet.load(tmp_path / "names.txt") == LabelSet.load(tmp_path / "names.json")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "empty"),
        (["a", "b", "A"], "'a' and 'A' read the same"),
        (["apple_pie", "apple pie"], "read the same"),
        (["ok", "!!!"], "no letter or digit"),
        (["ok", "caf\udce9"], r"Label 1 \('caf\\udce9'\) is not written in UTF-8"),
        (["x" * 201], "201 characters"),
        ([f"n{i}" for i in range(10_001)], "10001 names"),
    ],
)
def test_refuses_bad_names(names: list[str], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        LabelSet.from_names(names)


@pytest.mark.parametrize("text", ["{", "{}", '[{"id": 0}]', '[{"id": 1, "name": "a", "display": "A"}]', "[1, 2]"])
def test_refuses_bad_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ContractError):
        LabelSet.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no label file at .*nowhere"):
        LabelSet.load(tmp_path / "nowhere.json")


def test_ids_out_of_range_are_refused() -> None:
    for label_id in (-1, 101):
        with pytest.raises(ContractError, match=f"{label_id} is out of range"):
            FOOD101[label_id]


def test_find_ignores_case_accents_and_punctuation() -> None:
    assert FOOD101.find("Crème-Brûlée") is FOOD101.find("creme_brulee")
    assert FOOD101.find("no such food") is None
    assert match_key("  A--b  ") == "a b"


def test_json_has_one_label_a_line() -> None:
    text = LabelSet.from_names(["pho", "ramen"]).to_json()
    assert len(text.splitlines()) == 4
    assert json.loads(text)[0] == {"id": 0, "name": "pho", "display": "Phở"}
