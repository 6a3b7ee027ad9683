"""`python -m app.tools.smoke` against a real server: what `helm test` runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.tools.smoke import main
from contract.bundle import MANIFEST_FILE
from tests.app.file_server import file_server
from tests.app.inside import running
from tests.conftest import drawn_png


def test_the_bundles_own_pictures(server: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([server, "--bundle", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"check picture {n}" for n in (1, 2, 3)]
    assert all(line.endswith("as it must be") for line in lines)


def test_a_picture_of_ones_own(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "photo"
    photo.write_bytes(drawn_png(0))
    main([server, "--photo", str(photo), "--label", "no such food"])
    label = capsys.readouterr().err.split("'")[1]
    assert main([server, "--photo", str(photo), "--label", label]) == 0
    assert main([server, "--photo", str(photo), "--label", "sushi" if label != "sushi" else "pho"]) == 1
    assert f"the label is {label!r}, not " in capsys.readouterr().err


def test_with_keys_and_where_no_photo_gets_an_answer(
    familiar_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = familiar_bundle  # its pictures are made up: like no photo of food
    keys = tmp_path / "keys"
    keys.write_text("# ours\nfirst-key\nsecond-key\n")
    with running(bundle, api_keys_file=keys, abstain_below=1, unfamiliar_below=1) as (url, _):
        assert main([url, "--bundle", str(bundle)]) == 1
        assert "answered 401" in capsys.readouterr().err
        assert main([url, "--bundle", str(bundle), "--api-keys-file", str(keys)]) == 0


def test_another_bundle_than_is_served(
    server: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    manifest = json.loads((other / MANIFEST_FILE).read_text())
    del manifest["files"]["check.npz"]
    (other / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert main([server, "--bundle", str(other)]) == 1
    assert "has no check pictures" in capsys.readouterr().err
    with file_server() as web:
        web.files["/info"] = b'{"model": {"version": "abc"}}'
        assert main([f"http://{web.address}", "--bundle", str(bundle)]) == 1
    assert "serves the bundle abc, but" in capsys.readouterr().err


def test_a_wrong_label_is_told(bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with file_server() as web:
        for body, said in ((b"[]", "with an object"), (b"<html>", "with JSON")):
            web.files["/info"] = body
            assert main([f"http://{web.address}", "--bundle", str(bundle)]) == 1
            assert said in capsys.readouterr().err
    assert main([f"http://{web.address}", "--bundle", str(bundle)]) == 1
    assert "cannot be reached: [Errno 111] Connection refused" in capsys.readouterr().err
    assert main(["http://127.0.0.1:9", "--photo", str(tmp_path / "none"), "--label", "x"]) == 1
    assert "There is no photo at" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--photo", "x"], ["--bundle", "b", "--label", "x"], ["--bundle", "b", "--ftp"]])
def test_wrong_usage(flags: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["http://127.0.0.1:9", *flags])
    assert stopped.value.code == 2
