"""The report folder: a page that needs nothing else, says what the JSON says, and bears any class name."""

from __future__ import annotations

import base64
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.errors import ContractError
from contract.labels import FOOD101, LabelSet
from training.evaluate.ask import Answers
from training.evaluate.metrics import Difference, percent
from training.evaluate.report import write_report

NASTY = LabelSet.from_names(["<script>alert(1)</script>", r"fish & $\chips$", 'a "quoted" pie', "寿司", "n" * 200])
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks that tags close in order and keeps what a browser would load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.shown += data.replace("\xa0", " ")


def answers(labels: LabelSet, strength: float, photos: int = 300, empty: int = 0) -> Answers:
    """Answers that grow better with `strength`; the last `empty` classes have no photo."""
    rng = np.random.default_rng(0)
    wanted = np.arange(photos) % (len(labels) - empty)
    scores = rng.normal(size=(photos, len(labels)))
    scores[np.arange(photos), wanted] += strength
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    said = probabilities.argmax(axis=1)
    return Answers(wanted, said, probabilities, np.where(np.arange(photos) < 40, said, -1))


def written(path: Path, labels: LabelSet, *, base: bool = True, temperature: float = 1.4, **options: int) -> str:
    before, after = answers(labels, 0.2, **options), answers(labels, 2.5, **options)
    report: dict[str, Any] = {
        "checkpoint": {"name": "a <checkpoint>", "sha256": "0" * 64},
        "base": "some/base & more",
        "training": {
            "recipe": {"seed": 0, "data": {"train": "photos/<here>", "test": None}},
            "data": {"source": "folder"}, "versions": {"torch": "2"}, "git_commit": None, "hardware": "CPU",
            "steps": 10, "seconds": 3.0, "parameters": {"trainable": 1000, "total": 2000},
        },
        "data": {"source": "folder", "test": 300}, "unreadable": 3, "evaluation": {"date": "2026-01-31"},
        "after": after.as_json(labels, temperature),
    }  # fmt: skip
    if base:
        report |= {"before": before.as_json(labels), "difference": Difference.of(before.right, after.right).as_json()}
    write_report(path, report, before if base else None, after, {}, replace=False)
    return (path / "report.html").read_text(encoding="utf-8")


def test_page_needs_nothing_else_and_escapes_every_name(tmp_path: Path) -> None:
    html = written(tmp_path / "out", NASTY)
    page = Page(html)
    assert "<script" not in html
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?://|url\(|@import", html)
    for name in (*NASTY.names, "a <checkpoint>", "some/base & more", "photos/<here>"):
        assert name in page.shown
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3
    assert all(image["alt"] for image in images)
    heads = [attributes for tag, attributes in page.tags if tag == "th"]
    assert all(attributes.get("scope") in ("row", "col") for attributes in heads)
    assert sum(tag == "caption" for tag, _ in page.tags) == 5
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert "prefers-color-scheme: dark" in html


def test_page_and_json_say_the_same(tmp_path: Path) -> None:
    html = written(tmp_path / "out", FOOD101, photos=505)
    shown = Page(html).shown
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    for side in (report["before"], report["after"]):
        for share in ("free", "constrained", "scored", "unparsable", "top5"):
            assert percent(side["shares"][share]["value"], side["shares"][share]["interval_95"]) in shown
        assert percent(side["macro_f1"], side["macro_f1_interval_95"]) in shown
    for row in report["after"]["per_class"]:
        assert percent(row["recall"], row["recall_interval_95"]) in shown
    for row in report["after"]["risk_at_coverage"]:
        assert percent(row["risk"], row["interval_95"]) in shown
        assert f"{row['threshold']:.3f}" in shown
    for row in report["after"]["risk_at_threshold"]:
        answered = percent(row["coverage"]["value"], row["coverage"]["interval_95"])
        wrong = percent(row["risk"]["value"], row["risk"]["interval_95"]) if row["risk"] else "none answered"
        assert f"{row['threshold']:g}{answered}{wrong}{row['coverage']['count']}" in shown.replace("\n", "")
    for scores in report["after"]["calibration"].values():
        assert f"{100 * scores['ece']:.1f} %{scores['nll']:.3f}{scores['brier']:.3f}" in shown
    pair = report["after"]["most_confused"][0]
    assert f"{pair['wanted']} called {pair['said']} {pair['photos']} time" in shown
    assert f"{100 * report['difference']['value']:+.1f} points" in shown
    assert "constrained decoding, n=40" in shown, "fewer photos are said to be fewer"
    rows = re.findall(r'<th scope="row">([a-z_]+)</th><td>5</td>', html)
    recall = {row["label"]: row["recall"] for row in report["after"]["per_class"]}
    assert len(rows) == 101
    assert [recall[name] for name in rows] == sorted(recall.values()), "worst first"


@pytest.mark.parametrize("labels", [LabelSet.from_names(["yes", "no"]), NASTY, FOOD101], ids=["2", "nasty", "101"])
def test_figures_open_and_are_those_of_the_page(tmp_path: Path, labels: LabelSet) -> None:
    html = written(tmp_path / "out", labels)
    inlined = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]
    files = sorted((tmp_path / "out").glob("*.png"))
    assert [file.name for file in files] == ["confusion.png", "reliability.png", "risk_coverage.png"]
    assert sorted(file.read_bytes() for file in files) == sorted(inlined)
    for data in inlined:
        image = Image.open(io.BytesIO(data))
        image.load()
        assert 400 <= min(image.size) <= max(image.size) <= 2000
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20, "something is drawn"


def test_without_base_or_temperature_or_photos_of_a_class(tmp_path: Path) -> None:
    html = written(tmp_path / "out", NASTY, base=False, temperature=1.0, empty=2)
    shown = Page(html).shown
    assert "No temperature was fitted" in shown
    assert "Gain by" not in shown
    assert "Base:" not in shown
    assert shown.count("no photo") >= 2
    assert "nan" not in unescape(html.split("</style>")[1].split("data:image")[0])


def test_existing_folder_is_refused_and_keeps_its_content(tmp_path: Path) -> None:
    written(tmp_path / "out", NASTY)
    before = (tmp_path / "out" / "report.json").read_bytes()
    with pytest.raises(ContractError, match="--force"):
        written(tmp_path / "out", NASTY, temperature=3.0)
    assert (tmp_path / "out" / "report.json").read_bytes() == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"")
    with pytest.raises(ContractError, match=r"holds no report\.json"):
        written(tmp_path / "photos", NASTY)
