"""The latency benchmark by its command line, on stand-ins and on the real service."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.latency import main
from benchmarks.load.routes import ROUTES
from tests.app.browser import Watched, browser
from tests.benchmarks.load.stand_in_server import Request, answer, good, stand_in
from tests.conftest import ROOT, drawn_png

QUICK = ["--seconds", "0.5", "--warm-up", "0.1", "--sizes", "32", "--count", "4"]


async def at_once(_: Request) -> bytes:
    return good()


def result_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{path}.json").read_text())
    return found


@pytest.mark.parametrize("route", ROUTES)
def test_the_real_service_by_every_route(route: str, server: str, tmp_path: Path) -> None:
    assert main([server, "--route", route, "--concurrency", "4", "--out", str(tmp_path / route), *QUICK]) == 0
    result = result_of(tmp_path / route)
    (phase,) = result["phases"]
    assert result["complete"]
    assert phase["errors"] == {}
    assert phase["answers"] >= 4  # each caller asks at least once
    assert set(phase["by_photo"]) == {f"drawn-32-{i}" for i in range(4)}
    server_side = phase["server"]
    assert server_side["batches"]["photos"] >= phase["answers"]
    assert 1 <= server_side["batches"]["mean"] <= 4
    assert {"decode", "queue", "encode", "score"} <= set(server_side["stages"])
    assert result["server"]["provider"] == "cpu"
    if route in ("predict", "multipart"):
        stages = phase["stages_ms"]
        assert 0 < stages["encode"]["mean"] < stages["total"]["mean"] < phase["latency_ms"]["mean"]["value"]
        assert "Where the time goes" in Path(f"{tmp_path / route}.md").read_text()


def test_all_routes_give_the_same_labels(server: str, tmp_path: Path) -> None:
    # as many callers as photos: each is sent at the beginning, however slow the machine is
    photos = ["--sizes", "96", "--count", "8", "--seconds", "0.5", "--warm-up", "0", "--concurrency", "8"]
    labels = []
    for route in ROUTES:
        assert main([server, "--route", route, "--out", str(tmp_path / route), *photos]) == 0
        labels.append(result_of(tmp_path / route)["phases"][0]["by_photo"])
    assert len(labels[0]) == 8
    assert len(set(labels[0].values())) > 1
    labels[1] = {
        photo: shown.lower().replace(" ", "_") for photo, shown in labels[1].items()
    }  # multipart: display names
    assert all(found == labels[0] for found in labels)


def test_everything_that_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "v1.2"
    with stand_in(at_once) as url:
        code = main([url, "--concurrency", "1,3", "--rates", "40", "--slo-ms", "50", "--out", str(out), *QUICK])
    assert code == 0
    names = {path.name for path in out.parent.iterdir()}
    assert names == {f"v1.2{end}" for end in (".json", ".md", ".html", "-load.png", "-histogram.png", "-stages.png")}
    text = Path(f"{out}.md").read_text()
    said, progress = capsys.readouterr()
    assert text.strip() == said.strip()
    for row in ("| 1 caller |", "| 3 callers |", "| 40 requests/s |", "within 50 ms/s", "client"):
        assert row in text
    assert re.search(r"3 callers: [\d.]+ answers/s, p50 [\d.]+ ms", progress)
    page = Path(f"{out}.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3
    assert not re.findall(r"""(?:src|href)=(?!"data:)|url\(|@import""", page)


@pytest.mark.browser
def test_the_page_loads_nothing_and_shows_its_plots(tmp_path: Path) -> None:
    with stand_in(at_once) as url:
        assert main([url, "--concurrency", "2", "--out", str(tmp_path / "r"), *QUICK]) == 0
    with browser() as chromium:
        page = chromium.new_page()
        watched = Watched(page, "file:///")
        page.goto((tmp_path / "r.html").as_uri())
        widths = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
        assert page.locator("h1").inner_text().startswith("Latency of http://127.0.0.1")
        assert page.locator("table").first.locator("tr").count() == 2
    assert len(widths) == 3
    assert all(width > 500 for width in widths)
    assert watched.hosts == set()
    assert watched.complaints == []


def test_names_from_a_server_are_text_in_the_page(tmp_path: Path) -> None:
    async def hostile(_: Request) -> bytes:
        return answer({"error_type": "<script>alert(1)</script>"}, 500) if _.number % 2 else good("<script>|")

    with stand_in(hostile) as url:
        assert main([url, "--concurrency", "1", "--out", str(tmp_path / "r"), *QUICK]) == 0
    assert "<script" not in (tmp_path / "r.html").read_text()


def test_secrets_are_sent_and_never_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = set()

    async def keyed(request: Request) -> bytes:
        seen.add((request.headers.get("authorization"), request.headers.get("x-key")))
        return good()

    with stand_in(keyed) as url:
        headers = ["--header", "Authorization: Bearer hunter2", "--header=X-Key: hunter3"]
        assert main([url, *headers, "--concurrency", "1", "--out", str(tmp_path / "r"), *QUICK]) == 0
    assert seen == {("Bearer hunter2", "hunter3")}
    said = "".join(capsys.readouterr())
    for text in (said, *(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())):
        assert "hunter" not in text
    assert "Authorization: ..." in result_of(tmp_path / "r")["command"]


async def not_found(_: Request) -> bytes:
    return answer({"error_type": "not_found"}, 404)


async def another_page(_: Request) -> bytes:
    return answer({"hello": 1})


async def elsewhere(_: Request) -> bytes:
    return answer({}, 307, "location: /x\r\n")


@pytest.mark.parametrize(
    ("behave", "why"),
    [
        (not_found, "(404 not_found): there is no such route; see --route."),
        (another_page, "(wrong_answer): the answer is not what this route gives; see --route."),
        (elsewhere, "(307): the server points elsewhere"),
    ],
)
def test_a_wrong_route(behave: Any, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stand_in(behave) as url:
        assert main([url, "--out", str(tmp_path / "r"), *QUICK]) == 1
    assert f"POST /predict of {url[7:]} gave no answer {why}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert main([url, *QUICK]) == 1
        assert "(refused): nothing listens there; is the server running?" in capsys.readouterr().err
        assert main([url, "--route", "oip", *QUICK]) == 1
        assert "is it running?" in capsys.readouterr().err


def test_a_photo_that_is_refused_does_not_end_the_run(tmp_path: Path) -> None:
    async def first_is_bad(request: Request) -> bytes:
        return answer({"error_type": "image_unreadable"}, 400) if request.number == 0 else good()

    with stand_in(first_is_bad) as url:
        assert main([url, "--concurrency", "1", "--out", str(tmp_path / "r"), *QUICK]) == 0


def test_a_server_that_goes_away_ends_the_run_with_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def goes_away(request: Request) -> bytes | None:
        return good() if request.number < 5 else None

    with stand_in(goes_away) as url:
        options = ["--concurrency", "1", "--rounds", "9", "--out", str(tmp_path / "r"), *QUICK, "--warm-up", "0"]
        assert main([url, *options]) == 1
    assert "(closed): the server closed the connection" in capsys.readouterr().err
    result = result_of(tmp_path / "r")
    assert not result["complete"]
    assert "closed" in result["stopped"]
    assert result["phases"][0]["answers"] > 0 == result["phases"][-1]["answers"]
    assert "**Not complete**" in (tmp_path / "r.md").read_text()


def test_nothing_but_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def alone_only(request: Request) -> bytes:
        return good() if request.number == 0 else answer({}, 503)

    with stand_in(alone_only) as url:
        assert main([url, "--concurrency", "2", "--out", str(tmp_path / "r"), *QUICK]) == 1
    assert result_of(tmp_path / "r")["phases"][0]["error_share"] == 1
    assert "gave no answer (503)" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_a_marked_result(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "r"
    command = [sys.executable, "-m", "benchmarks.latency"]
    options = ["--concurrency", "1,2", "--seconds", "0.5", "--warm-up", "0", "--sizes", "32", "--out", str(out)]
    again = threading.Event()  # it is asked after a whole stretch was kept

    async def noted(_: Request) -> bytes:
        if Path(f"{out}.json").exists():
            again.set()
        return good()

    with stand_in(noted) as url:
        process = subprocess.Popen(
            [*command, url, *options, "--rounds", "50"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        again.wait(timeout=60)
        os.kill(process.pid, number)
        said, complaints = process.communicate(timeout=60)
    assert process.returncode == 130, complaints
    assert b"benchmarks.latency: interrupted." in complaints
    assert b"Traceback" not in complaints
    assert b"**Not complete**: interrupted." in said
    result = result_of(out)
    assert result["complete"] is False
    assert result["stopped"] == "interrupted"
    assert result["phases"][0]["complete"]
    assert result["phases"][0]["answers"] > 0


def test_a_folder_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert main(["http://127.0.0.1:1", "--photos", str(tmp_path)]) == 1
    assert "holds 1 files and none is an image that can be read" in capsys.readouterr().err
    assert main(["http://127.0.0.1:1", "--photos", str(tmp_path / "none")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_photographs_of_a_folder(server: str, tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "below"
    photos.mkdir(parents=True)
    (photos / "a.png").write_bytes(drawn_png(0, 64))
    (photos / "b.txt").write_text("no picture")
    options = ["--photos", str(tmp_path / "photos"), "--concurrency", "1", "--out", str(tmp_path / "r"), *QUICK[:4]]
    assert main([server, *options]) == 0
    result = result_of(tmp_path / "r")
    assert result["photographs"]["count"] == 1
    assert list(result["phases"][0]["by_photo"]) == ["below/a.png"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "the URL of a running server is missing"),
        (["URL", "--find-capacity"], "--slo-ms"),
        (["URL", "--find-capacity", "--slo-ms", "5", "--rates", "5"], "chooses the rates itself"),
        (["URL", "--compare", "a", "b"], "leave the URL out"),
        (["URL", "--seconds", "nan"], "nan is not from 0.5 to 86400"),
        (["URL", "--seconds", "fast"], "'fast' is not a list of numbers"),
        (["URL", "--seconds", "1,2"], "'1,2' is not one number"),
        (["URL", "--concurrency", "0"], "0 is not from 1 to 4096"),
        (["URL", "--concurrency", "1.5"], "whole numbers"),
        (["URL", "--rates", "1e9"], "is not from"),
        (["URL", "--route", "grpc"], "invalid choice"),
        (["URL", "--model", "m"], "only --route oip"),
        (["URL", "--out", "."], "names a folder"),
        (["URL", "--head", "A: hunter2"], "unrecognized arguments"),
    ],
)  # fmt: skip
def test_wrong_usage(options: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert why in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with stand_in(at_once) as url:
        assert main([url, "--out", str(tmp_path / "file" / "r"), *QUICK]) == 1
    assert f"The folder {tmp_path / 'file'} cannot be made: File exists." in capsys.readouterr().err


def test_help_says_units_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    text = " ".join(said.split())
    described = re.split(r"\n  (?=-)", said.partition("options:")[2])[2:]
    assert len(described) > 15
    for one in described:
        takes_value = re.match(r"--[a-z-]+ [A-Z'{]", one)
        assert not takes_value or "default" in one or one.startswith("--compare"), one
    for unit in ("seconds", "arrivals/s", "latency in ms", "px", "Exit code"):
        assert unit in text
