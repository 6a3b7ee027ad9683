"""The model card: what the hub's client reads of it, that it says what was measured, and bears any name."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.inference._providers import PROVIDERS
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from markdown_it import MarkdownIt
from packaging.licenses._spdx import LICENSES

from contract.labels import FOOD101, LabelSet
from modeling.checkpoint import TrainingRecord
from modeling.familiarity import Bank, Origin
from modeling.towers import TOWERS, VIT, Tower
from tests.conftest import CHECKPOINT
from tests.training.evaluate.test_report import NASTY, answers
from training.evaluate.card import Tuned, model_card
from training.evaluate.metrics import Difference, percent
from training.evaluate.own_words import LINE

RECORD = json.loads((CHECKPOINT / "training.json").read_text(encoding="utf-8"))
FEW = LabelSet.from_names(["pie", "apple soup", "hot dog"])
HOSTILE = LabelSet.from_names(
    [
        *NASTY.names, "a|b", "`code`", "- - -\n---\nlicense: mit", f"{LINE} x", "**bold** _it_", "🍕 pizza", "مقلوبة",
        "\u202eevil\u202c", "[link](http://x.y)", "&amp; <b>", "[ref]: x", "key: [1, {2}]", "ice_cream_cone",
        "back\\slash |", "two\u2028lines",
    ]
)  # fmt: skip


class Cells(HTMLParser):
    """The text of each table's cells, and every tag."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.inside = False
        self.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.inside = True
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def tuned(
    labels: LabelSet = FEW, *, tower: Tower = VIT, data: dict[str, Any] | None = None, name: str = "mine", **model: object
) -> Tuned:  # fmt: skip
    record = TrainingRecord.model_validate(RECORD | {"data": data or {"source": "folder", "train": 9, "test": 300}})
    record.recipe["model"] = dict(model)
    return Tuned(name, tower, 32, record, labels)


def measured(labels: LabelSet = FEW, *, base: str | None = None, **more: object) -> dict[str, Any]:
    before, after = answers(labels, 0.2), answers(labels, 2.5)
    report: dict[str, Any] = {"after": after.as_json(labels, 1.4), **more}
    if base is not None:
        difference = Difference.of(before.right, after.right).as_json()
        report |= {"base": base, "before": before.as_json(labels), "difference": difference}
    return report


def read(path: Path, text: str) -> ModelCard:
    """As the hub's client reads a README.md, without forgiving anything."""
    path.joinpath("README.md").write_text(text, encoding="utf-8")
    return ModelCard.load(path / "README.md", ignore_metadata_errors=False)


@pytest.mark.parametrize("tower", TOWERS.values(), ids=str)
@pytest.mark.parametrize("labels", [FEW, FOOD101, HOSTILE], ids=["few", "food101", "hostile"])
def test_the_hubs_client_reads_what_was_written(tower: Tower, labels: LabelSet, tmp_path: Path) -> None:
    """What of its checks needs no network: `RepoCard.validate`, and `hf upload` before it sends, ask the hub itself."""
    data = {"source": "hub", "name": "ethz/food101", "train": 100}
    name = "a: 'strange' \"name\" | #1\n---\n- x"
    base = "Salesforce/blip-image-captioning-base" if tower is VIT else None
    text = model_card(tuned(labels, tower=tower, data=data, name=name, base=base), measured(labels, data=data))
    card = read(tmp_path, text)
    assert str(card) == text
    assert card.data.to_dict() == ModelCardData(**card.data.to_dict(), ignore_metadata_errors=False).to_dict()
    found = card.data.to_dict()
    assert found["license"] in LICENSES, "the hub's spelling is SPDX's in small letters"
    assert found["pipeline_tag"] in PROVIDERS["hf-inference"]
    assert card.data["model_name"] == name
    assert found["datasets"] == ["ethz/food101"]
    for repository in (*found["datasets"], *([found["base_model"]] if base else [])):
        validate_repo_id(repository)
    results = card.data["eval_results"]
    assert [result.metric_type for result in results] == ["accuracy", "accuracy", "f1", "accuracy"][
        : min(4, len(labels))
    ]
    assert {result.metric_type for result in results} == set(found["metrics"])
    assert all(result.verified is None and result.verify_token is None for result in results)
    assert found["library_name"] == ("transformers" if tower is VIT else "food-vision")
    assert (found["license"], found.get("base_model_relation")) == (
        ("bsd-3-clause", "finetune") if tower is VIT else ("apache-2.0", None)
    )


def test_it_says_what_was_measured(tmp_path: Path) -> None:
    report = measured(base="a new model with random weights")
    text = model_card(tuned(), report)
    first = read(tmp_path, text).data["eval_results"][0]
    scored = report["after"]["shares"]["scored"]
    low, high = (100 * end for end in scored["interval_95"])
    assert first.metric_value == round(scored["value"], 4)
    assert first.metric_name == f"Accuracy by label scoring (95 % interval {low:.1f} to {high:.1f} %)"
    assert (first.dataset_type, first.dataset_name) == ("imagefolder", "held-out: 300 photos")
    assert percent(scored["value"], scored["interval_95"]) in text
    before = report["before"]["shares"]["scored"]
    assert f"| {percent(before['value'], before['interval_95'])} |" in text
    assert f"{report['difference']['gained']} photos won" in text
    worst = min(report["after"]["per_class"], key=lambda row: row["recall"])
    assert f"| {worst['label']} | {percent(worst['recall'], worst['recall_interval_95'])} |" in text
    assert "None of them was trained on." in text
    other = model_card(tuned(), measured(same_data_as_training=False))
    assert "**This is not the data of the training**" in other
    assert read(tmp_path, other).data["eval_results"][0].dataset_name.endswith("other data than the training's")
    unmeasured = model_card(tuned(), None)
    assert "were not measured" in unmeasured
    assert "model-index" not in read(tmp_path, unmeasured).data.to_dict()
    drawn = model_card(tuned(data={"source": "drawn"}), None)
    assert "from no photo" in drawn
    assert "demonstration" in read(tmp_path, drawn).data["tags"]


def test_names_are_text_whatever_they_hold() -> None:
    text = model_card(tuned(HOSTILE, name="<script>x</script>"), measured(HOSTILE))
    page = Cells(ModelCard(text).text)
    assert page.tags <= {
        "h1",
        "h2",
        "p",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "code",
        "ul",
        "li",
        "strong",
    }
    shown = [" ".join(name.replace("\u202e", "").replace("\u202c", "").split()) for name in HOSTILE.names]
    table = page.cells[page.cells.index("name for people") + 1 :]
    assert table[1 : 3 * len(shown) : 3] == shown, "one row for each, in their order"
    assert text.count(LINE) == 1
    assert "<details>" not in text
    assert "<details>" in model_card(tuned(FOOD101), None)
    assert "| 50 | grilled_salmon | Grilled Salmon |" in model_card(tuned(FOOD101), None), "no needless escapes"


@pytest.mark.parametrize("base", ["/home/somebody/blip", "models/blip", "../blip", r"C:\models\blip", "a/b/c"])
def test_no_path_of_a_disk_is_told(base: str) -> None:
    share = {"value": 0.5, "interval_95": [0.2, 0.8]}
    score = {"auroc": 0.9, "auroc_interval_95": [0.8, 1.0], "refused_at": [share, share]}
    other = {"folder": "/home/somebody/not|food", "photos": 4, "refused": share, "scores": {"similarity": score}}
    measure = {"folders": [other], "photos": 4, "kept": share, "threshold": 0.01}
    text = model_card(tuned(base=base), measured(base=base, familiarity=measure))
    assert "/home" not in text
    assert r"50.0 % (20.0-80.0) of not\|food are refused" in text
    assert base not in text.replace("\\\\", "\\")
    assert "a local checkpoint" in text
    assert ModelCard(text).data.get("base_model") is None
    assert ModelCard(text).data["license"] == "unknown"
    assert "must say which it is" in text


@pytest.mark.parametrize(
    ("front", "found"),
    [
        ("license: mit", "mit"),
        ("license: [mit]", "unknown"),
        ("license: '<b>'", "unknown"),
        ("{", "unknown"),
        ("[" * 5000, "unknown"),
    ],
    ids=["mit", "list", "html", "broken", "deep"],
)
def test_licence_of_a_base_in_a_folder(front: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# base\n", encoding="utf-8")
    text = model_card(tuned(base=str(tmp_path)), None)
    assert ModelCard(text).data["license"] == found
    assert tmp_path.name not in text
    assert "under mit" in text or found == "unknown"


BLIP = "Salesforce/blip-image-captioning-base"
FOLDER = {"source": "folder", "train": 9, "validation": 3, "test": 300}
HUB = {"source": "hub", "name": "ethz/food101", "train": 95, "validation": 5, "test": 300}


@pytest.mark.parametrize(
    ("data", "recipe", "says", "not_says"),
    [
        (
            FOLDER,
            {},
            ["None of them was trained on.", "built as BLIP is, trained so", "| trained on | 9 photos |"],
            ["about 9"],
        ),
        (FOLDER | {"validation": 0}, {}, ["There were no validation photos"], ["| validation:"]),
        (
            FOLDER,
            {"data": {"train": "photos", "test": "photos/"}},
            ["**They are the photos of the training**", "300 photos, those of the training", "same data as"],
            ["None of them was", "share no file"],
        ),
        (
            HUB,
            {"data": {"streaming": True, "train_split": "train", "test_split": "validation"}},
            ["| about 95 photos |", "| about 5 photos |", "The about 5 validation", "| 300 photos |", "share no file"],
            ["They are the photos"],
        ),
        (HUB, {"data": {"streaming": False, "train_split": "train", "test_split": "train"}}, ["They are the"], ["about 9"]),
        (
            FOLDER,
            {"model": {"base": BLIP}},
            ["BLIP, fine-tuned so", "This training saw none of them;"],
            ["None of them was"],
        ),
        (
            FOLDER,
            {"model": {"base": BLIP, "new_decoder": True}},
            [f"| started from | a new text decoder on the image tower of {BLIP} |"],
            ["fine-tuned so"],
        ),
        (FOLDER | {"source": "drawn"}, {}, ["How well it names food on photos"], ["photos of"]),
        (HUB | {"name": "./foods"}, {}, ["| a data set in a folder of whoever trained it |"], ["./foods"]),
    ],
    ids=["folder", "no-validation", "test-is-train", "stream", "hub-split", "base", "new-decoder", "drawn", "local-hub"],
)  # fmt: skip
def test_every_sentence_is_true_of(
    data: dict[str, Any], recipe: dict[str, Any], says: list[str], not_says: list[str]
) -> None:
    given = tuned(data=data)
    given.record.recipe.update(recipe)
    text = model_card(given, measured())
    for sentence in says:
        assert sentence in text
    body = ModelCard(text).text
    for sentence in not_says:
        assert sentence not in body


def test_it_tells_of_the_photos_that_were_asked() -> None:
    """Of other data than the training's kind, of classes without a photo, and of three labels no best five."""
    drawn = tuned(data={"source": "drawn", "train": 9, "test": 300})
    text = model_card(drawn, measured(data={"source": "folder"}, same_data_as_training=False))
    assert "On 300 held-out photos of 3 classes." in text
    assert "It learnt from drawings only." in text
    assert "best five" not in text
    assert "Top-5" not in text
    report = measured()
    report["after"]["per_class"][0] |= {"photos": 0, "recall": 0.0, "recall_interval_95": None}
    assert "On 300 held-out photos of 2 of the 3 classes." in model_card(tuned(), report)


@pytest.mark.parametrize(("origin", "freeze"), [("left-out", "decoder"), ("left-out", "all"), ("validation", "all")])
def test_what_a_bank_is_held_against(origin: Origin, freeze: str) -> None:
    bank = Bank(torch.eye(4).half(), torch.eye(4)[[0] * 20].half(), torch.ones(20), "0" * 64, 32, origin)
    given = replace(tuned(), bank=bank)
    given.record.recipe["train"] = {"freeze": freeze}
    given.record.metrics["validation_unfamiliar"] = 0.125
    text = " ".join(model_card(given, None).split())
    assert ("look less familiar than they should" in text) == ((origin, freeze) == ("left-out", "all"))
    assert ("held against what it makes of the validation photos" in text) == (origin == "validation")
    assert ("12.5 % would have been refused" in text) == (origin == "left-out"), "it was not measured of what is served"
