"""The file of API keys: read again when it changes, however it does, and of use or one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.key_file import KeyFile, read_keys
from contract.errors import ContractError


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("# the kitchen\nfirst-key\n\n  second-key  \r\n# old-key\n")
    return path


def test_every_key_is_compared(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        assert len(one) == len(other) == 32
        return one == other

    file = KeyFile(keys)
    monkeypatch.setattr("app.key_file.hmac.compare_digest", compare)
    assert file.accepts("first-key")
    assert not file.accepts("none")
    assert len(compared) == 4


def test_a_change_of_the_file_counts_at_once(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = KeyFile(keys)
    keys.write_text("third-key\n")
    assert file.accepts("third-key")
    assert not file.accepts("first-key")
    new = keys.with_name("new")  # as an editor or a mounted secret does it: another file under the same name
    new.write_text("forth-key\n")
    os.replace(new, keys)
    assert file.accepts("forth-key")
    for spoil in (lambda: keys.write_text("# none\n"), keys.unlink):
        spoil()
        caplog.clear()
        assert file.accepts("forth-key"), "neither locked out nor let in: the keys from before stay"
        assert not file.accepts("anything")
        assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1
    keys.write_text("fifth-key\n")
    assert file.accepts("fifth-key")
    assert "-key" not in caplog.text


def test_the_log_says_that_a_file_can_be_read_again(keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "food_vision")
    file, good = KeyFile(keys), keys.read_text()
    for _ in range(2):
        caplog.clear()
        for content in ("# none\n", good):
            keys.write_text(content)
            assert [file.accepts("first-key") for _ in range(3)] == [True] * 3
        assert [one.levelname for one in caplog.records] == ["ERROR", "INFO"]


def same_but_for_the_content(path: Path, content: str) -> None:
    """Write over a file in place, and keep its size and its time."""
    before = path.stat()
    path.write_text(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (before.st_size, before.st_ino, before.st_mtime_ns)


def test_a_change_that_keeps_size_and_time_counts(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.key_file.time", SimpleNamespace(time=lambda: 1e11))  # long after every change
    keys.write_text("first-key\n")
    file, before = KeyFile(keys), keys.stat().st_ctime_ns
    while keys.stat().st_ctime_ns == before:  # the file system's clock ticks every few milliseconds
        same_but_for_the_content(keys, "other-key\n")
    assert file.accepts("other-key")
    assert not file.accepts("first-key")


def test_a_change_within_one_tick_counts(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.write_text("first-key\n")
    stamp, now = KeyFile(keys)._stamp(), [0.0]
    changed = keys.stat().st_ctime_ns / 1e9
    monkeypatch.setattr("app.key_file.time", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(KeyFile, "_stamp", lambda file: stamp)
    now[0] = changed + 0.5
    file = KeyFile(keys)
    for seconds, content in ((0.6, "key-1\n"), (0.7, ""), (1.9, "key-2\n")):
        now[0] = changed + seconds
        keys.write_text(content)
        assert file.accepts(content.strip() or "key-1"), "of a file that is empty those from before stay"
    keys.write_text("key-3\n")
    now[0] = changed + 2.1
    assert file.accepts("key-3")
    monkeypatch.setattr("app.key_file.read_keys", lambda path: pytest.fail("it has settled"))
    assert file.accepts("key-3")


def test_a_volume_of_kubernetes_is_switched(tmp_path: Path) -> None:
    """The file is a link through a link to a folder, and that one is replaced."""
    for name in ("1", "2"):
        (tmp_path / f"..{name}").mkdir()
        (tmp_path / f"..{name}" / "keys").write_text(f"key-{name}\n")
        os.utime(tmp_path / f"..{name}" / "keys", (0, 0))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    file = KeyFile(tmp_path / "keys")
    assert file.accepts("key-1")
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert file.accepts("key-2")
    assert not file.accepts("key-1")


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "No such file"), (b"", "no API key"), (b"# only\n\n", "no API key"), (b"two words\n", "Line 1"),
     (b"ok\nsch\xc3\xb6n\n", "Line 2"), (b"\xff", "UTF-8")],
)  # fmt: skip
def test_a_file_of_no_use_is_one_sentence(content: bytes | None, named: str, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ContractError, match=named) as raised:
        read_keys(path)
    assert str(path) in str(raised.value)
    assert "words" not in str(raised.value)
