"""The command in this process on a stand-in for Ray: stopped and gone on with, buckets, and what workers say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk import places
from app.bulk.__main__ import main
from tests.app.bulk.__main__ import exactly_once, same_labels
from tests.app.bulk.bucket import Bucket
from tests.app.bulk.photos import broken_bundle, fill, finished, rows, variants
from tests.app.bulk.stand_in_ray import use_stand_in


def command(*arguments: object) -> int:
    """The exit code of `python -m app.bulk`, run in this process."""
    return main([str(argument) for argument in arguments])


def test_a_stopped_run_loses_nothing_and_repeats_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    bad = fill(photos, 200, bad_every=20)
    line = (photos, "--bundle", bundle, "--out", out, "--shard", 20, "--batch-size", 7)

    def stop() -> None:
        if len(finished(out)) == 4:
            raise KeyboardInterrupt

    use_stand_in(monkeypatch, stop)
    assert command(*line) == 130
    shown = capsys.readouterr()
    assert (shown.out, shown.err.splitlines()[-1]) == ("", "bulk: interrupted.")
    before = finished(out)
    assert len(before) == 4
    assert len(rows(out)) + len(rows(out, "errors")) == 4 * 20, "whole shards alone are there"
    use_stand_in(monkeypatch)
    assert command(*line) == 0
    shown = capsys.readouterr()
    assert "120 of 200 photos in 6 shards to label; workers: 1 (cpu); shards finished before: 4" in shown.err
    assert "120 photos in 6 of 10 shards" in shown.out
    assert exactly_once(out, photos, bad, before, 10) == []
    assert same_labels(out, bundle) == []
    after = finished(out)
    assert command(*line) == 0
    assert "0 photos in 0 of 10 shards" in capsys.readouterr().out
    assert finished(out) == after


def test_a_second_run_waits_for_the_first(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_stand_in(monkeypatch)
    fill(tmp_path / "in", 3)
    with places.only_run(f"{tmp_path}/out"):
        assert command(tmp_path / "in", "--bundle", bundle, "--out", tmp_path / "out") == 1
    said = f"bulk: Another run is at work on {tmp_path}/out; wait for it, or choose another --out.\n"
    assert capsys.readouterr() == ("", said)


def test_from_a_bucket_into_a_bucket(
    bundle: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_stand_in(monkeypatch)
    s3.objects |= {f"photos/{index % 3}/p %41 {index}.png": data for index, data in enumerate(variants(60))}
    s3.objects["photos/bad.png"] = b"no picture"
    line = ("s3://photos", "--bundle", bundle, "--out", "s3://out/labels", "--shard", 20)
    assert command(*line) == 0
    before = dict(s3.objects)
    gone = sorted(name for name in before if name.startswith("out/labels/labels/"))[1]
    del s3.objects[gone]
    capsys.readouterr()
    assert command(*line) == 0
    assert "20 photos in 1 of 4 shards" in capsys.readouterr().out
    tables = {name: pq.read_table(pa.BufferReader(data)).to_pylist() for name, data in s3.objects.items()
              if name.endswith(".parquet") and "/shard-" in name}  # fmt: skip
    paths = Counter(row["path"].removeprefix("s3://") for table in tables.values() for row in table)
    assert paths == Counter(name for name in s3.objects if name.startswith("photos/"))
    assert {name: s3.objects[name] for name in tables if name != gone} == {
        name: before[name] for name in tables if name != gone
    }


def test_a_worker_that_cannot_load_its_engine_says_why(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_stand_in(monkeypatch)
    fill(tmp_path / "in", 3)
    broken = broken_bundle(bundle, tmp_path / "broken")
    assert command(tmp_path / "in", "--bundle", broken, "--out", tmp_path / "out") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[-1].startswith("bulk: ")
    assert "encoder.onnx" in shown.err.splitlines()[-1]
    assert "Traceback" not in shown.err
