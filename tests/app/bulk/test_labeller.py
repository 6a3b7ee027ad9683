"""The engine's answers, a row for each photo, and whose fault it is when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

import pyarrow as pa

from app.bulk.labeller import ANSWERED, Labeller
from app.bulk.photos import DECODED
from app.engine.engine import Engine, EngineError, Scores
from app.settings import Settings, load_settings
from contract.bundle import read_bundle
from contract.errors import ContractError
from contract.pixels import photo_to_pixels
from tests.app.chosen_familiarity import KNOWN, STRANGE, by_red, photo
from tests.conftest import drawn_png


@pytest.fixture
def settings(bundle: Path) -> Settings:
    return load_settings(bundle=bundle, threads=1, top_k=3)


def labeller(settings: Settings) -> Labeller:
    return Labeller(settings, read_bundle(settings.bundle).manifest.digest)


def decoded(count: int, bad: int = -1) -> Any:
    """A table of drawn photos; one of them may be a bad one."""
    place = {"shard": 7, "path": "p", "row": None, "photo": None, "decode_ms": 1.0, "error_type": None, "error": None}
    rows = [{**place, "index": i, "pixels": photo_to_pixels(drawn_png(i, size=64), 32).tobytes()} for i in range(count)]
    if bad >= 0:
        rows[bad] |= {"pixels": None, "decode_ms": None, "error_type": "bad_image", "error": "It is damaged."}
    return pa.Table.from_pylist(rows, schema=DECODED)


def test_answers_are_the_engines_and_bad_photos_keep_their_place(settings: Settings) -> None:
    table = labeller(settings)(decoded(6, bad=2))
    assert table.schema == ANSWERED
    engine = Engine(read_bundle(settings.bundle), provider="cpu", threads=1)
    labels = engine.bundle.labels
    assert labels is not None
    for index, row in enumerate(table.to_pylist()):
        assert (row["shard"], row["index"]) == (7, index)
        if index == 2:
            assert (row["error_type"], row["error"]) == ("bad_image", "It is damaged.")
            assert row["label"] is row["top"] is row["confidence"] is row["encode_ms"] is None
            continue
        scores = engine.score(photo_to_pixels(drawn_png(index, size=64), 32)[None]).probabilities[0]
        assert row["class_id"] == int(scores.argmax())
        assert row["label"] == labels[row["class_id"]].name
        assert row["raw_output"] == f"a photo of delicious {row['class_id']}"
        assert row["confidence"] == pytest.approx(float(scores.max()), abs=1e-5)
        assert [one["class_id"] for one in row["top"]] == np.argsort(-scores)[:3].tolist()
        assert (row["decode_ms"], row["error_type"]) == (1.0, None)
        assert row["encode_ms"] > 0
    assert labeller(settings)(decoded(1, bad=0)).to_pylist()[0]["error_type"] == "bad_image", (
        "no photo is left to score"
    )


def test_it_abstains_as_the_service_does(settings: Settings) -> None:
    sure = labeller(settings)(decoded(8)).to_pylist()
    least = sorted(row["confidence"] for row in sure)[4]
    rows = labeller(settings.model_copy(update={"abstain_below": least}))(decoded(8)).to_pylist()
    assert sum(row["abstained"] is None for row in rows) == 4
    for row, before in zip(rows, sure, strict=True):
        assert (row["abstained"] is None) is (row["confidence"] >= least)
        if row["abstained"] is not None:
            assert row["abstained"] == "low_confidence"
            assert row["label"] is row["class_id"] is row["prediction"] is None
        assert [one["label"] for one in row["top"]] == [one["label"] for one in before["top"]]


def test_what_is_strange_is_told_and_left_without_a_label(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = labeller(settings)(decoded(1)).to_pylist()
    assert rows[0]["familiarity"] is rows[0]["unfamiliar"] is None, "this bundle cannot tell"
    by_red(monkeypatch)
    pixels = [photo_to_pixels(photo(share), 32).tobytes() for share in (KNOWN, STRANGE)]
    table = decoded(2).drop_columns("pixels").append_column("pixels", pa.array(pixels, DECODED.field("pixels").type))
    known, strange = labeller(settings)(table).to_pylist()
    assert (known["familiarity"], known["unfamiliar"], known["abstained"]) == (KNOWN, False, None)
    assert (strange["familiarity"], strange["unfamiliar"], strange["abstained"]) == (STRANGE, True, "unfamiliar")
    assert strange["label"] is strange["class_id"] is strange["prediction"] is None
    marked = labeller(settings.model_copy(update={"unfamiliar": "mark"}))(table).to_pylist()[1]
    assert (marked["unfamiliar"], marked["abstained"], marked["label"] is None) == (True, None, False)


def test_a_photo_without_finite_numbers_fails_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = labeller(settings)
    real = Engine.score
    poison = decoded(5)["pixels"][3].as_py()

    def score(engine: Engine, pixels: Any) -> Scores:
        if any(one.tobytes() == poison for one in pixels):
            raise EngineError("values that are not all finite")
        return real(engine, pixels)

    monkeypatch.setattr(Engine, "score", score)
    rows = made(decoded(5)).to_pylist()
    assert [row["error_type"] for row in rows] == [None, None, None, "engine_failed", None]
    assert rows[3]["error"] == "The model gave no usable answer for this photo."
    assert rows[3]["label"] is None


def test_a_fault_of_the_engine_is_no_photos_fault(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = labeller(settings)

    def score(engine: Engine, pixels: Any) -> Scores:
        raise RuntimeError("CUDA error 700")

    monkeypatch.setattr(Engine, "score", score)
    with pytest.raises(ContractError, match="The engine failed on a batch of 5 photos: CUDA error 700"):
        made(decoded(5))


def test_what_is_wrong_with_a_worker_is_said_by_its_first_call(settings: Settings, tmp_path: Path) -> None:
    other = Labeller(settings, "0" * 64)
    with pytest.raises(ContractError, match=r"is .{12} on one machine and 000000000000 on another"):
        other(decoded(1))
    missing = Labeller(settings.model_copy(update={"bundle": tmp_path / "none"}), "0" * 64)
    with pytest.raises(ContractError, match="There is no bundle folder at .*none"):
        missing(decoded(1))
