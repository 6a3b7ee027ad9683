"""A bundle comes whole and right, or not at all, and each reason is one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.tools.fetch import main
from contract.bundle import MANIFEST_FILE, read_bundle
from contract.files import sha256_file
from tests.app.file_server import FileServer, file_server

WEIGHTS = "/models/tiny/text.weights"


@pytest.fixture
def web(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server with the bundle below /models/tiny; also Cloud Storage and the metadata server, where one is asked."""
    monkeypatch.setattr("app.tools.fetch.PAUSE", 0.001)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with file_server() as server:
        server.put_folder("/models/tiny", bundle)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{server.address}")
        monkeypatch.setenv("GCE_METADATA_HOST", server.address)
        yield server


@pytest.fixture
def digest(bundle: Path) -> str:
    """What `sha256sum manifest.json` prints."""
    return sha256_file(bundle / MANIFEST_FILE)


def url(web: FileServer) -> str:
    """The folder's URL."""
    return f"http://{web.address}/models/tiny"


def test_a_bundle_over_http(
    web: FileServer, digest: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "models" / "bundle"
    assert main([url(web), "--sha256", digest.upper(), "--to", str(to)]) == 0
    assert read_bundle(to).manifest == read_bundle(bundle).manifest
    assert [path.name for path in to.parent.iterdir()] == ["bundle"]
    assert "every file checked" in capsys.readouterr().out
    # again, as when a container starts anew: checked, and nothing is downloaded
    web.asked.clear()
    assert main([url(web) + "/", "--sha256", digest, "--to", str(to)]) == 0
    assert web.asked == []
    (to / "labels.json").write_text("{}")
    assert main([url(web), "--sha256", digest, "--to", str(to)]) == 1
    assert "labels.json" in capsys.readouterr().err


def test_a_bucket_with_the_token_of_the_machine(web: FileServer, digest: str, tmp_path: Path) -> None:
    web.token = "secret-token"
    assert main(["gs://models/tiny", "--sha256", digest, "--to", str(tmp_path / "b")]) == 0
    tokens = [path for path, _ in web.asked if path.startswith("/computeMetadata/")]
    assert tokens == ["/computeMetadata/v1/instance/service-accounts/default/token"]  # once, not for each file


def test_a_download_that_breaks_goes_on(web: FileServer, digest: str, tmp_path: Path) -> None:
    web.break_after[WEIGHTS] = [1000, 5000]
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 0
    assert [asked for path, asked in web.asked if path == WEIGHTS] == [None, "bytes=1000-", "bytes=6000-"]


def test_a_fetch_that_was_killed_goes_on(web: FileServer, digest: str, bundle: Path, tmp_path: Path) -> None:
    web.errors[WEIGHTS] = [403]
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 1
    part = tmp_path / ".b.partial"
    (part / "text.weights.part").write_bytes((bundle / "text.weights").read_bytes()[:777])
    (part / "of-another-bundle").write_text("old")
    assert not (tmp_path / "b").exists()
    web.asked.clear()
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 0
    assert web.asked == [(WEIGHTS, "bytes=777-"), ("/models/tiny/tokenizer.json", None)]
    assert not (tmp_path / "b" / "of-another-bundle").exists()


def test_a_part_of_another_version_is_begun_anew(web: FileServer, digest: str, tmp_path: Path) -> None:
    part = tmp_path / ".b.partial"
    part.mkdir()
    (part / "text.weights.part").write_bytes(b"x" * 777)
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 0


def test_a_server_without_ranges(web: FileServer, digest: str, tmp_path: Path) -> None:
    web.ranges = False
    web.break_after[WEIGHTS] = [1000]
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 0


def test_a_server_with_hiccups(web: FileServer, digest: str, tmp_path: Path) -> None:
    web.errors = {WEIGHTS: [503, 429, 500, 502], "/models/tiny/manifest.json": [503]}
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 0


def test_another_manifest_than_was_asked_for(
    web: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([url(web), "--sha256", "0" * 64, "--to", str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("fetch: http://127.0.0.1:")
    assert f"not {'0' * 64}: it is another bundle than was asked for" in said
    assert len(web.asked) == 1  # nothing else was downloaded
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("change", [b"short", None])
def test_a_file_that_is_not_the_manifests(
    web: FileServer, digest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: bytes | None
) -> None:
    good = web.files[WEIGHTS]
    web.files[WEIGHTS] = bytes([good[0] ^ 1]) + good[1:] if change is None else change
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    assert f"text.weights has {len(web.files[WEIGHTS])} bytes and the sha256" in said
    assert f"its manifest says {len(good)} bytes" in said
    assert not (tmp_path / "b").exists()


def test_an_answer_without_end_stops(web: FileServer, digest: str, tmp_path: Path) -> None:
    web.files[WEIGHTS] += b"x" * 5_000_000
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 1
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 2_000_000


REFUSALS = [
    ("gs", 403, "roles/storage.objectViewer on the bucket models"),
    ("gs", 401, "roles/storage.objectViewer on the bucket models"),
    ("gs", 404, "is the bucket models or the folder right"),
    ("http", 404, "is the folder right"),
    ("http", 401, "without a password"),
    ("http", 410, "cannot be read: HTTP 410"),
    ("http", 503, "HTTP 503, 5 times"),
]


@pytest.mark.parametrize(("scheme", "code", "said"), REFUSALS)
def test_a_folder_that_cannot_be_read(
    web: FileServer,
    digest: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    scheme: str,
    code: int,
    said: str,
) -> None:
    web.token = "t" if scheme == "gs" else None
    web.errors["/models/tiny/manifest.json"] = [code] * 9
    folder = "gs://models/tiny" if scheme == "gs" else url(web)
    assert main([folder, "--sha256", digest, "--to", str(tmp_path / "b")]) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert f"{folder}/manifest.json" in printed
    assert len(printed.splitlines()) == 1


def test_no_metadata_server(web: FileServer, digest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gs://models/tiny", "--sha256", digest, "--to", str(tmp_path / "b")]) == 1
    assert "needs a token of Google Cloud, and the metadata server 127.0.0.1" in capsys.readouterr().err


def test_no_server(digest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], web: FileServer) -> None:
    with file_server() as gone:
        address = gone.address
    assert main([f"http://{address}/x", "--sha256", digest, "--to", str(tmp_path / "b")]) == 1
    assert "cannot be read: [Errno 111] Connection refused, 5 times" in capsys.readouterr().err


def test_no_room(
    web: FileServer,
    digest: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path / "b")]) == 1
    assert "needs 1 MB more" in capsys.readouterr().err
    assert [path for path, _ in web.asked] == ["/models/tiny/manifest.json"]


def test_a_folder_with_something_else_is_left_alone(
    web: FileServer, digest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    assert main([url(web), "--sha256", digest, "--to", str(tmp_path)]) == 1
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    assert web.asked == []


def test_a_manifest_that_points_elsewhere(web: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = web.files["/models/tiny/manifest.json"].replace(b'"labels.json"', b'"../labels.json"')
    web.files["/models/tiny/manifest.json"] = manifest
    (tmp_path / "m").write_bytes(manifest)
    assert main([url(web), "--sha256", sha256_file(tmp_path / "m"), "--to", str(tmp_path / "b")]) == 1
    assert "'../labels.json', which is not a plain file name" in capsys.readouterr().err


WRONG_URLS = ["ftp://a/b", "models/tiny", "https://a/b?x=1", "https://a/b#x", "https://u:p@a/b"]


@pytest.mark.parametrize("wrong", WRONG_URLS)
def test_a_url_that_is_no_folder(wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([wrong, "--sha256", "0" * 64, "--to", str(tmp_path / "b")]) == 1
    said = capsys.readouterr().err
    assert "URL" in said
    assert ":p@" not in said


@pytest.mark.parametrize("flags", [["--sha256", "abc"], ["--sha256", "0" * 64, "--timeout", "0"], []])
def test_wrong_usage(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["gs://a/b", "--to", str(tmp_path / "b"), *flags])
    assert stopped.value.code == 2
