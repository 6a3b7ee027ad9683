"""The command as people run it: the service's labels, a kill in the middle, a cluster with buckets, and mistakes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.__main__ import main
from tests.app.bulk.__main__ import check
from tests.app.bulk.bucket import bucket
from tests.app.bulk.photos import BAD, broken_bundle, command, fill, finished, held_photo, rows, variants
from tests.app.photos import png_of_size
from tests.app.strange_decoder import DEADLY
from tests.conftest import ROOT, drawn_png, run_module

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}


@pytest.mark.long  # two sessions of Ray, one of which is killed; the same without Ray: test_job.py
def test_a_killed_run_loses_nothing_and_repeats_nothing(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(bundle, tmp_path, photos=500, shard=50) == [], capsys.readouterr().out


def test_the_answers_and_errors_are_those_of_the_service(bundle: Path, server: str, tmp_path: Path) -> None:
    photos = {f"{index}.png": drawn_png(index, size=64) for index in range(40)}
    photos |= {f"{slug}.png": data for slug, data in BAD.items() if data}
    photos |= {"huge.png": png_of_size(8000, 9000), "heavy.png": b"x" * ((32 << 20) + 1)}
    for name, data in photos.items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    cells = [{"bytes": photos[name], "path": name} for name in ("7.png", "bad_image.png", "8.png")]
    pq.write_table(pa.table({"image": cells, "label": [0, 0, 0]}), tmp_path / "in" / "table.parquet")
    done = run_module(
        "app.bulk",
        tmp_path / "in",
        "--bundle",
        bundle,
        "--out",
        tmp_path / "out",
        "--batch-size",
        7,
        "--min-confidence",
        0.3,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    found: dict[tuple[str, int | None], dict[str, Any]] = {
        (Path(row["path"]).name, row["row"]): row
        for row in (*rows(tmp_path / "out"), *rows(tmp_path / "out", "errors"))
    }
    assert len(found) == len(photos) + len(cells)
    model = httpx.get(f"{server}/info").json()["model"]
    with httpx.Client(base_url=server, timeout=60) as client:
        for (name, place), row in found.items():
            photo = row["photo"] if place is not None else name
            answer = client.post("/predict", content=photos[photo], params={"min_confidence": 0.3}).json()
            if "error_type" in answer:
                assert row["error_type"] == answer["error_type"], photo
                assert row["error"] == answer["error"] or row["error_type"] == "body_too_large"
                continue
            assert {key: row[key] for key in ("prediction", "raw_output", "class_id", "label")} == {
                key: answer[key] for key in ("prediction", "raw_output", "class_id", "label")
            }, photo
            assert row["abstained"] == (answer["abstained"] or {"reason": None})["reason"]
            assert (row["familiarity"], row["unfamiliar"]) == (answer["familiarity"], answer["unfamiliar"])
            assert row["confidence"] == pytest.approx(answer["confidence"], abs=1e-5)
            assert [one["class_id"] for one in row["top"]] == [one["class_id"] for one in answer["top"]]
            assert (row["model"], row["model_digest"][:12]) == (model["name"], model["version"])
    slugs = {"huge.png": "image_too_large", "heavy.png": "body_too_large", "table.parquet": "bad_image"}
    assert {name: found[name, 1 if "table" in name else None]["error_type"] for name in slugs} == slugs


STRANGE = """
import sys
if any("app.decoding.worker" in one or "default_worker" in one for one in sys.orig_argv):  # whoever decodes
    from contract import pixels
    from tests.app.strange_decoder import strange
    pixels.photo_to_pixels = strange
"""


@pytest.mark.long  # a session of Ray, whose worker must outlive the process
def test_a_photo_that_kills_its_process_is_one_row(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(STRANGE)
    fill(tmp_path / "in", 20)
    for name in ("0/deadly.png", "3/deadly.png"):
        (tmp_path / "in" / name).write_bytes(DEADLY)
    done = run_module(
        "app.bulk", tmp_path / "in", "--bundle", bundle, "--out", tmp_path / "out", "--shard", 11,
        env={"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "out")) == 20
    bad = rows(tmp_path / "out", "errors")
    assert [(Path(row["path"]).name, row["error_type"]) for row in bad] == [("deadly.png", "bad_image")] * 2


@contextmanager
def cluster(environment: dict[str, str]) -> Iterator[str]:
    """The address of a Ray cluster of one node with two CPUs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
             "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    process = subprocess.Popen(
        start, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError("the cluster did not start")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.long  # a cluster of Ray and two runs on it
def test_a_cluster_and_buckets_need_nothing_else(bundle: Path) -> None:
    with bucket() as s3:
        environment = os.environ | s3.environment | TOKEN | {"PYTHONPATH": str(ROOT)}
        s3.objects |= {f"photos/{index % 3}/p %41 {index}.png": data for index, data in enumerate(variants(60))}
        s3.objects["photos/bad.png"] = b"no picture"
        with cluster(environment) as address:
            line = command(
                "s3://photos", "--bundle", bundle, "--out", "s3://out/labels", "--shard", 20, "--address", address
            )
            first = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
            assert first.returncode == 0, first.stderr
            before = dict(s3.objects)
            gone = sorted(name for name in before if name.startswith("out/labels/labels/"))[1]
            del s3.objects[gone]
            again = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
            assert again.returncode == 0, again.stderr
        assert "20 photos in 1 of 4 shards" in again.stdout
        tables = {name: pq.read_table(pa.BufferReader(data)).to_pylist() for name, data in s3.objects.items()
                  if name.endswith(".parquet") and "/shard-" in name}  # fmt: skip
        paths = sorted(row["path"].removeprefix("s3://") for table in tables.values() for row in table)
        assert paths == sorted(name for name in s3.objects if name.startswith("photos/"))
        kept = {name for name in tables if name != gone}
        assert {name: s3.objects[name] for name in kept} == {name: before[name] for name in kept}


@pytest.mark.long  # a session of Ray that is ended
def test_an_interrupt_is_one_line_and_keeps_finished_shards(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "in", 100)
    out = tmp_path / "out"
    arguments = [str(one) for one in (tmp_path / "in", "--bundle", bundle, "--out", out, "--shard", 20)]
    with held_photo(tmp_path / "in" / "last.png"):  # the last of 101: the run cannot end by itself
        process = subprocess.Popen(
            command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while not finished(out):
            assert process.poll() is None
            time.sleep(0.01)
        assert main(arguments) == 1
        said = f"bulk: Another run is at work on {out}; wait for it, or choose another --out."
        assert capsys.readouterr().err.strip() == said
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (130, "")
    assert errors.splitlines()[-1] == "bulk: interrupted."
    assert "Traceback" not in errors
    assert 0 < len(finished(out)) < 6
    assert len(rows(out)) == 20 * len(finished(out))


def test_mistakes_are_one_sentence(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    fill(photos, 3)
    good = (photos, "--bundle", bundle, "--out", out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("")
    for arguments, code, sentence in (
        ((), 2, "the following arguments are required: inputs, --out"),
        ((*good, "--workers", 0), 2, "argument --workers: '0' is no whole number from 1 on"),
        ((*good, "--gpus-per-worker", 1.5), 2, "--gpus-per-worker above 1 must be whole, not 1.5"),
        ((*good, "--gpus-per-worker", 1), 1, "The provider is cpu and --gpus-per-worker was given"),
        ((photos, "--out", out), 1, "No bundle was given"),
        ((tmp_path / "none", *good[1:]), 1, f"There is no file or folder at {tmp_path}/none."),
        ((*good[:3], "--out", photos / "labels"), 1, f"lies in the input {photos}, and would be labelled too"),
        ((*good[:3], "--out", tmp_path / "full"), 1, "holds a.txt and no manifest.json"),
        ((*good, "--top-k", 101), 1, "The setting top_k"),
        ((*good[:3], "--out", "gs://"), 1, "gs:// names no bucket"),
    ):
        try:
            found = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse's
            found = int(str(error.code))
        shown = capsys.readouterr()
        assert (found, shown.out) == (code, "")
        assert sentence in shown.err
        assert not list(out.glob("labels/*"))


@pytest.mark.long  # a session of Ray, for how it passes on what a worker raised
def test_a_worker_that_cannot_load_its_engine_says_why(bundle: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in", 3)
    broken = broken_bundle(bundle, tmp_path / "broken")
    done = run_module("app.bulk", tmp_path / "in", "--bundle", broken, "--out", tmp_path / "out")
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout) == (1, "")
    assert last.startswith("bulk: ")
    assert "encoder.onnx" in last
    assert "Traceback" not in done.stderr


def test_without_ray_the_extra_is_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError(\"No module named 'ray'\")")
    environment = {"PYTHONPATH": str(tmp_path)}
    code = "import sys; sys.modules['pyarrow'] = None; from app.bulk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", code, str(tmp_path), "--bundle", str(bundle), "--out", str(tmp_path / "out")]
    done = subprocess.run(line, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1, "bulk: Labelling in bulk needs Ray Data (No module named 'ray'): pip install 'food-vision[bulk]'.\n"
    )  # fmt: skip
    assert "label" in run_module("app.bulk", "--help", env=environment).stdout.lower()
    assert not (tmp_path / "out").exists()
