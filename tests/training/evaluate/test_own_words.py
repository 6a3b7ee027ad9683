"""What of a card's own words and metadata outlasts writing it anew, and what is refused instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from contract.errors import ContractError
from contract.labels import LabelSet
from modeling.towers import LITE0
from tests.training.evaluate.test_card import measured, read, tuned
from training.evaluate.card import model_card
from training.evaluate.own_words import LINE, Kept, check_can_write_card, read_kept, write_card


def test_own_words_stay(tmp_path: Path) -> None:
    """Also when the model is trained again: then all that the old card said of its model goes."""
    path = tmp_path / "README.md"
    lite = tuned(tower=LITE0)
    first = model_card(lite, measured())
    words = f"\n\n## Photos\r\nfrom our *canteen* | {LINE}\n---\nx: y\n---\n"
    mine = first.replace("license: apache-2.0", "license: other\nlicense_name: ours\nlanguage: [en]").replace(
        "- food\n", "- food\n- canteen\n"
    )
    path.write_text(mine.removesuffix("\n") + words, encoding="utf-8", newline="")
    again = model_card(lite, measured(), read_kept(tmp_path, same_model=True))
    assert again.endswith(LINE + words.replace("\r\n", "\n"))
    data = read(tmp_path, again).data.to_dict()
    assert (data["license"], data["license_name"], data["language"]) == ("other", "ours", ["en"])
    assert data["tags"].count("canteen") == 1
    assert "other, was set by whoever published it" in again
    (tmp_path / "README.md").write_text(again.replace("model-index:\n", "model-index: broken\nmodel_name:\n"))
    assert model_card(lite, measured(), read_kept(tmp_path, same_model=True)) == again, "figures are written anew"
    assert "NOTICE" in again, "the tower's licence is what it was"
    assert model_card(lite, measured(), read_kept(tmp_path, same_model=True)) == again
    vit = model_card(tuned(), measured(), read_kept(tmp_path, same_model=False))
    assert vit.endswith(LINE + words.replace("\r\n", "\n"))
    assert ModelCard(vit).data["license"] == "other"
    assert "efficientnet-lite0" not in ModelCard(vit).data["tags"]


def test_what_is_no_longer_known_stays_for_the_same_model(tmp_path: Path) -> None:
    assert read_kept(tmp_path, same_model=True) == Kept()
    base = "Salesforce/blip-image-captioning-base"
    (tmp_path / "README.md").write_text(model_card(tuned(base=base), None), encoding="utf-8")
    moved = tuned(base="blip-of-another-machine")
    same = ModelCard(model_card(moved, None, read_kept(tmp_path, same_model=True))).data
    assert (same["license"], same["base_model"]) == ("bsd-3-clause", base)
    new = ModelCard(model_card(moved, None, read_kept(tmp_path, same_model=False))).data
    assert (new["license"], new.get("base_model")) == ("unknown", None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"# My own card\n", "Put that line above the words"),
        (f"---\nlicense: [\n---\n{LINE}\n".encode(), "cannot be read"),
        (f"---\n- a list\n---\n{LINE}\n".encode(), "cannot be read"),
        (f"---\n1: x\n---\n{LINE}\n".encode(), "cannot be read"),
        (f"---\nx: {'[' * 5000}\n---\n{LINE}\n".encode(), "cannot be read"),
        (f"---\nx: !!timestamp y\n---\n{LINE}\n".encode(), "cannot be read"),
        (f"---\nlicense: mit\n\n# x\n\n{LINE}\n".encode(), "the second of these lines is missing"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_such_card_is_refused(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ContractError, match=says) as caught:
        read_kept(tmp_path, same_model=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mine", LINE], ids=["name", "line"])
def test_what_looks_like_its_own_comments_is_none(name: str, tmp_path: Path) -> None:
    """In the answer that it shows, and in the metadata, nothing is escaped as in its text."""
    hostile = f"{LINE} <!-- licence found: mit --> ```"
    labels = LabelSet.from_names([hostile, "pie"])
    text = model_card(tuned(labels, name=name), measured(labels))
    read(tmp_path, text)
    kept = read_kept(tmp_path, same_model=False)
    assert (kept.words, kept.metadata, kept.licence) == ("\n", {}, None)
    assert read_kept(tmp_path, same_model=True).found == "unknown"
    answer = json.loads(text.partition("```json\n")[2].partition("\n```\n")[0])
    assert (answer["label"], answer["raw_output"]) == (hostile, "a photo of delicious 0")


def test_metadata_is_read_as_the_hub_reads_it(tmp_path: Path) -> None:
    """YAML 1.2, in which `no` is Norwegian: huggingface_hub's client takes it for false, and would write that."""
    own = (
        "language: no\nagreed: yes\nwritten: 2026-11-28\nat: 12:30:00\nzip: 01234\nshare: 0.5\ngated: true\ncount: 12\n"
    )
    read_text = model_card(tuned(), None).replace("license: unknown\n", f"license: mit\ntags: canteen\nself: x\n{own}")
    (tmp_path / "README.md").write_text(read_text.replace("tags:\n- food", "older:\n- food"), encoding="utf-8")
    kept = read_kept(tmp_path, same_model=True)
    again = model_card(tuned(), None, kept)
    for line in (
        "language: 'no'",
        "written: '2026-11-28'",
        "at: '12:30:00'",
        "zip: '01234'",
        "share: 0.5",
        "gated: true",
        "agreed: 'yes'",
        "count: 12",
        "- canteen",
        "license: mit",
        "self: x",
    ):
        assert f"\n{line}\n" in again


def test_a_card_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_can_write_card(tmp_path)
    (tmp_path / "README.md").mkdir()
    with pytest.raises(ContractError, match=r"The card .*README.md could not be written: .*run it again\.$"):
        write_card(tmp_path, "# x\n")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "README.md").rmdir()
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ContractError, match="cannot be written, so no card can: copy it"):
        check_can_write_card(tmp_path)
    monkeypatch.undo()
    write_card(tmp_path, "# x\n")
    assert (tmp_path / "README.md").read_text() == "# x\n"
