"""What familiarity is worth: the plain score, thresholds, bad input, the size of the bank, cost, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.engine.engine import Engine
from benchmarks.accuracy.familiarity import bad_input, bank_size
from benchmarks.accuracy.familiarity.__main__ import kept
from benchmarks.accuracy.familiarity.ask import (
    Seen,
    familiarity,
    features,
    in_folder,
    in_table,
    plain,
    refusals,
    see,
    similarity,
    threshold,
    told_apart,
)
from benchmarks.accuracy.familiarity.cost import compared
from benchmarks.accuracy.familiarity.report import filled, histogram, markdown
from contract.bundle import read_bundle
from contract.errors import ContractError
from training.drawn.pictures import draw


@pytest.fixture(scope="module")
def engine(familiar_bundle: Path) -> Engine:
    """The tiny bundle with a bank of drawn pictures."""
    return Engine(read_bundle(familiar_bundle), provider="cpu", threads=1)


def directions(count: int, seed: int, centre: float = 1.0) -> np.ndarray:
    """Unit rows float32 [count, 8] around one direction, the closer the larger `centre`."""
    values = np.random.default_rng(seed).normal(0, 1, (count, 8)) + centre * np.eye(8)[0] * 8
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def test_the_plain_score_is_the_mean_of_the_ten_nearest() -> None:
    bank, photos = directions(40, 0), directions(5, 1)
    wanted = [np.sort(bank @ photo)[-10:].mean() for photo in photos]
    assert similarity(photos, bank) == pytest.approx(wanted, abs=1e-6)
    others = [similarity(bank[i : i + 1], np.delete(bank, i, axis=0))[0] for i in range(40)]
    assert similarity(bank, bank, members=True) == pytest.approx(others, abs=1e-6)


def test_familiarity_is_the_share_that_looks_less_alike() -> None:
    reference = np.array([0.4, 0.1, 0.3, 0.2], np.float32)
    assert familiarity(np.array([0.05, 0.25, 0.3, 0.9], np.float32), reference).tolist() == [0, 0.5, 0.5, 1]


def test_a_threshold_keeps_99_of_100() -> None:
    values = np.arange(200, dtype=np.float32)
    assert threshold(np.random.default_rng(0).permutation(values)) == 2
    assert (values >= threshold(values)).mean() == 0.99


def test_auroc_counts_ties_half() -> None:
    assert told_apart(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]))["auroc"] == pytest.approx(4.5 / 6)


def test_others_are_refused_and_food_is_kept() -> None:
    bank = directions(300, 0)
    found = refusals(**plain(bank, validation=directions(100, 1), food=directions(80, 2), others=directions(60, 3, -1)))
    for at in ("at_validation", "at_default"):
        assert found[at]["others_refused"]["count"] == 60
        assert found[at]["food_kept"]["value"] > 0.9
    assert found["at_validation"]["validation_kept"]["count"] == 99
    assert found["auroc"] == 1


def test_sizes_of_the_bank_and_classes_never_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_size, "SIZES", (64, 4096))
    monkeypatch.setattr(bank_size, "SEEDS", 2)
    train, test, others = directions(200, 0), directions(100, 1), directions(50, 2, -1)
    found = bank_size.sizes(train, test, others)
    assert {rows: len(runs) for rows, runs in found.items()} == {"200": 1, "64": 2}
    hard = bank_size.sizes(train, test, directions(50, 2, 0.3))["64"]
    assert hard[0]["auroc"] != hard[1]["auroc"], "two samples"
    assert found["200"][0]["at_default"]["others_refused"]["count"] == 50
    classes = np.arange(100) < 30
    known = bank_size.unseen_classes(train, test, others, np.arange(200) < 120, classes)
    assert (known["photos"], known["seen_kept"]["photos"], known["unseen_kept"]["photos"]) == (120, 30, 70)


def test_the_bundle_keeps_what_it_knows_and_features_are_kept_for_the_next_run(engine: Engine, tmp_path: Path) -> None:
    seen = see(engine, bad_input.drawn_pictures(20, engine.image_size))
    assert seen.features.shape == (20, engine.bundle.manifest.width)
    assert np.linalg.norm(seen.features, axis=1) == pytest.approx(1, abs=1e-5)
    assert (seen.familiarity >= 0.01).mean() > 0.7
    photos = [bad_input.at_64(picture_bytes(tmp_path, number)) for number in range(3)]
    first = features(engine, photos, tmp_path)
    (file,) = tmp_path.glob("features-*.npy")
    np.save(file, first + 1)
    assert (features(engine, photos, tmp_path) == first + 1).all(), "from the file"
    assert not (features(engine, photos[:2], tmp_path) == (first + 1)[:2]).any(), "other photos, another file"


def picture_bytes(folder: Path, number: int) -> bytes:
    path = folder / f"{number}.jpg"
    draw(number, size=96)[0].save(path)
    return path.read_bytes()


def test_a_bundle_without_a_bank_is_refused(bundle: Path) -> None:
    bare = Engine(read_bundle(bundle), provider="cpu", threads=1)
    with pytest.raises(ContractError, match="has no bank of training photos"):
        see(bare, bad_input.drawn_pictures(1, bare.image_size))


def test_every_change_and_picture_is_asked(engine: Engine, tmp_path: Path) -> None:
    photos = [picture_bytes(tmp_path, number) for number in range(2)]
    told: list[str] = []
    found = bad_input.kept(engine, photos, told.append)
    assert list(found) == list(bad_input.CHANGES)
    assert len(told) == len(found)
    assert all(one["photos"] == 2 for one in found.values())
    made = bad_input.made(engine, 4)
    assert made["a drawn picture of food"]["photos"] == 4
    assert made["noise, pixel by pixel"]["photos"] == bad_input.MADE


def test_changes_do_what_they_say() -> None:
    image = draw(3, size=96)[0].resize((96, 64))
    changed = {name: change(image) for name, change in bad_input.CHANGES.items()}
    assert changed["turned by 90°"].size == (64, 96)
    assert changed["32 px"].size == (32, 21)
    assert changed["the middle half of the area"].size == (68, 45)
    before = np.asarray(image).astype(float)
    assert np.asarray(changed["dark, a tenth of the light"]).mean() == pytest.approx(before.mean() / 10, rel=0.1)
    assert np.ptp(np.asarray(changed["grey"]), axis=2).max() == 0
    assert np.asarray(changed["blurred, 3 % of the side"]).std() < before.std()
    assert (np.asarray(changed["as it is"]) == before).all()


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    with pytest.raises(ContractError, match="no parquet file of Food-101 photos"):
        in_table(path)
    pq.write_table(pa.table({"picture": [1]}), path)
    with pytest.raises(ContractError, match="no parquet file of Food-101 photos"):
        in_table(path)
    pq.write_table(pa.table({"image": [{"bytes": b"a"}, {"bytes": b"b"}], "label": [6, 16]}), path)
    table = in_table(path)
    assert table.names.tolist() == ["beignets", "cheesecake"]
    assert table.of(table.names == "cheesecake") == [b"b"]
    with pytest.raises(ContractError, match="There is no folder of photos"):
        in_folder(tmp_path / "nowhere")


def test_ratios_are_taken_within_a_round() -> None:
    seconds = {"no bank": [1.0, 10.0, 2.0], "bank": [1.1, 11.0, 2.2]}
    found = compared(seconds, "no bank", 2)
    assert found["bank"]["ratio"] == pytest.approx(1.1)
    assert found["bank"]["ratio_interval_95"] == pytest.approx([1.1, 1.1])
    assert found["bank"]["ms_a_photo"] == pytest.approx(1100)
    assert found["bank"]["added_ms"] == pytest.approx(100)


def test_prose_is_filled_and_the_rest_stays() -> None:
    long, row = "word " * 30, "| " + "cell | " * 30
    lines = filled(["# title", "", long, "more", "- " + long, "- item", row, "```sh", long, "```", "end"])
    assert lines[:2] == ["# title", ""]
    assert all(len(line) <= 100 or line in (row, long) for line in lines)
    assert (lines.count(row), lines.count(long)) == (1, 1)
    assert " ".join(lines[2:4]) == long + "more"
    assert lines[4].startswith("- word")
    assert lines[5].startswith("  word")
    assert lines[-5:] == [row, "```sh", long, "```", "end"]


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def step() -> dict[str, Any]:
        asked.append(1)
        return {"value": len(asked)}

    first = kept(tmp_path / "part.json", step)
    assert first == kept(tmp_path / "part.json", step)
    assert (first["value"], set(first)) == (1, {"value", "commit"})
    (tmp_path / "part.json").unlink()
    assert kept(tmp_path / "part.json", step)["value"] == 2


def test_the_page_and_the_picture_are_made_from_the_json() -> None:
    bank = directions(100, 0)
    seen: dict[str, Seen] = plain(
        bank, validation=directions(60, 1), food=directions(50, 2), others=directions(40, 3, -1)
    )
    one = refusals(**seen) | {"similarities": {k: v.similarity.tolist() for k, v in seen.items()}}
    share, score = one["at_default"]["food_kept"], {"auroc": 0.5, "auroc_interval_95": [0.4, 0.6]}
    run = {
        "auroc": 0.9,
        **{at: {"food_kept": share, "others_refused": share} for at in ("at_validation", "at_default")},
    }
    row = {"ms_a_photo": 2.0, "ratio": 1.02, "ratio_interval_95": [1.01, 1.03], "rounds": 3}
    row |= {"added_ms": 0.04, "added_ms_interval_95": [0.03, 0.05]}
    calls = {f"{call}, 1 at a time": {"no bank": row, "rows": row} for call in ("engine", "scorer.onnx")}
    result = {
        "command": "python -m benchmarks.accuracy.familiarity …",
        "bank": {"photos": 100, "directions": 8, "reference": "left-out", "tower": "tiny"},
        "date": "2026-11-28", "commit": None, "hardware": {"cpu": "a processor", "cores": 2},
        "separation": {"fp32": one, "int8": one, "plain": one},
        "beside_other_scores": {
            name: score | {"refused_at": [share, share]} for name in ("similarity", "probability", "energy")
        }
        | {"most_familiar": [{"photo": "n1_Petri_dish.jpg", "familiarity": 0.0184}]},
        "bad_input": {"kept": {"grey": share}, "refused": {"noise": share}, "screenshots": {"page.png": 0.25}},
        "cost": {"commit": "0123456789", "base": "no bank", "calls": calls, "bundle_bytes": {"rows": 1e6}},
        "tables": {
            "bundle_keeps": {"never seen": {"fp32": share, "int8": share}},
            "bank_at_64_px": {
                "photos": 9, "seen_kept": share, "unseen_kept": share, "others_refused": share,
                "unseen_median_familiarity": 0.4,
            },
            "sizes": {"1000": [run], "64": [run, run]},
        },
        "demonstration": {"photos": 9, "drawn_kept": share, "food_refused": share, "others_refused": share},
        "vit": score
        | {"classes": 3, "photos": 9, "reference": "validation", "top1": 0.5}
        | {"seen_kept": share, "unseen_kept": share, "others_refused": share},
    }  # fmt: skip
    page = markdown(json.loads(json.dumps(result)))
    assert "| 1,000 (all) | 0.9000 |" in page
    assert "| engine, 1 at a time | rows | 2.00 | 1.020 (1.010-1.030) | 0.04 (0.03-0.05) |" in page
    assert "1 at a time 2.0 % with rows" in page
    assert "2026-11-28, commits 0123456; a processor" in page
    assert "most familiar: `Petri_dish` 0.018." in page
    assert "right on 50.0 % of its own test photos" in page
    prose = page.partition("```sh")[0].splitlines()
    assert max(len(line) for line in prose if not line.startswith("|")) <= 100
    assert "(AUROC 0.9000 against 0.9000)" in " ".join(page.split())
    assert histogram(json.loads(json.dumps(one)), 0.5).startswith(b"\x89PNG")
    assert "demonstration" not in markdown({k: v for k, v in result.items() if k not in ("demonstration", "vit")})
