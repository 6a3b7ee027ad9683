"""Paths and buckets: found, read and written, in whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

from app.bulk import places
from contract.errors import ContractError
from tests.app.bulk.bucket import Bucket


def test_forms_of_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places.normal("a/../b/") == f"{tmp_path}/b"
    assert places.normal("file:///tmp/a%20b/") == "/tmp/a b"
    assert places.normal("s3://bucket/photos/") == "s3://bucket/photos"
    assert places.normal("s3://bucket/") == "s3://bucket"
    assert not places.is_local("gs://bucket/a")
    assert places.is_local("/a:b")
    assert places.inside("/a/b", "/a")
    assert not places.inside("/ab", "/a")
    with pytest.raises(ContractError, match="names no bucket; give one, like gs://bucket/photos"):
        places.normal("gs:///photos")
    with pytest.raises(ContractError, match=r"ftp://host cannot be reached: .*\. Give a local path, gs:// or s3://"):
        places.locate("ftp://host/photos")


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("a.png", "sub/q?%41 ü.png", ".hidden.png", ".git/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    (tmp_path / "dead.png").symlink_to("/nowhere")
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    found = dict(places.files_below(str(tmp_path)))
    sizes = {"a.png": 3, "sub/q?%41 ü.png": 3, "dead.png": -1, "link.png": 3}
    assert found == {f"{tmp_path}/{name}": size for name, size in sizes.items()}
    assert places.files_below(f"{tmp_path}/a.png") == [(f"{tmp_path}/a.png", 3)]
    with pytest.raises(ContractError, match="There is no file or folder at .*/none"):
        places.files_below(f"{tmp_path}/none")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(ContractError, match=r"udcff.png' is not UTF-8; rename it"):
        places.files_below(str(tmp_path))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{tmp_path}/new/labels.parquet"
    places.write_whole(place, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            places.write_whole(place, b"new and longer")
    assert Path(place).read_bytes() == b"old"
    places.write_whole(place, b"new")
    assert Path(place).read_bytes() == b"new"
    assert places.names_in(f"{tmp_path}/new") == {"labels.parquet"}, "nothing temporary is left"
    assert places.names_in(f"{tmp_path}/none") == set()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        places.only_run(str(tmp_path)),
        pytest.raises(ContractError, match=f"Another run is at work on {tmp_path}"),
        places.only_run(str(tmp_path)),
    ):
        pass
    with places.only_run(str(tmp_path)):
        pass
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ContractError, match="cannot be made"), places.only_run(f"{tmp_path}/file/out"):
        pass


def test_a_bucket_is_read_and_written_by_the_names_that_it_has(s3: Bucket) -> None:
    s3.objects |= {"photos/a/x %41?#.png": b"12345", "photos/b.png": b"", "photos/a/.hidden.png": b"1"}
    found = dict(places.files_below("s3://photos"))
    assert found == {"s3://photos/a/x %41?#.png": 5, "s3://photos/b.png": 0}
    assert places.files_below("s3://photos/b.png") == [("s3://photos/b.png", 0)]
    assert places.read_at_most("s3://photos/a/x %41?#.png", 3) == b"123"
    assert places.read_at_most("s3://photos/a/x %41?#.png", None) == b"12345"
    with pytest.raises(FileNotFoundError):
        places.read_at_most("s3://photos/none.png", 3)
    places.write_whole("s3://out/labels/a.parquet", b"whole")
    assert s3.objects["out/labels/a.parquet"] == b"whole"
    assert places.names_in("s3://out/labels") == {"a.parquet"}
    assert places.names_in("s3://out/none") == set()
    with pytest.raises(ContractError, match="There is no file or folder at s3://photos/none"):
        places.files_below("s3://photos/none")


def test_a_bucket_that_may_not_be_read_is_one_sentence(s3: Bucket) -> None:
    s3.broken.add("GET")
    with pytest.raises(ContractError, match=r"s3://photos/a cannot be listed: .*ACCESS_DENIED.*\.$"):
        places.files_below("s3://photos/a")
