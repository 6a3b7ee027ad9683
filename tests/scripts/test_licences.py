"""The licence of every wheel in the locks is known, the GPL is in no image by default, and an image says what it holds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from contract.errors import ContractError
from scripts import licences, notices
from scripts.image import TARGETS, _licences
from scripts.licences import EXPLAINED, Wheel, expression, findings, is_gpl, pins, read_table, read_wheel, version_of

PYTHON_S = "Python 2.1.1 and later are compatible with the GPL."


def test_every_pin_of_every_lock_has_a_row_and_none_is_under_the_gpl() -> None:
    assert findings(licences.locks()) == []


def test_the_table_holds_the_locks_wheels_and_no_others() -> None:
    wanted = {(name, version_of(block)) for lock in licences.locks() for name, block in pins(lock).items()}
    assert set(read_table()) == wanted, "python -m scripts.licences --write"
    rows = json.loads(licences.TABLE.read_text(encoding="utf-8"))
    assert rows == sorted(rows), "in order, so that a change is a line"


def test_every_explanation_is_of_a_wheel_that_mentions_the_gpl() -> None:
    assert set(EXPLAINED) == {one.name for one in read_table().values() if one.mentions} - {
        name for names in licences.EXCEPTED.values() for name in names
    }


@pytest.mark.parametrize("lock", ["cpu", "bulk", "training"])
def test_pillow_heif_may_not_come_back(lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{lock}.txt").write_text(f"{pins(lock)['numpy']}\n{pins('heic')['pillow-heif']}\n")
    monkeypatch.setattr(licences, "LOCKS", tmp_path)
    (found,) = findings([lock])
    assert found.startswith(f"{lock}: pillow-heif is under the GPL, which no lock but tools and heic may hold")


def test_a_pin_that_was_not_looked_at_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.txt").write_text("numpy==99.0 \\\n    --hash=sha256:00\n")
    monkeypatch.setattr(licences, "LOCKS", tmp_path)
    assert findings(["cpu"]) == ["cpu: numpy==99.0 is not in licences.json: python -m scripts.licences --write"]


@pytest.mark.parametrize(
    ("wheel", "why"),
    [
        (Wheel("a", "1", "MIT"), ""),
        (Wheel("a", "1", "LGPL-2.1-or-later"), ""),
        (Wheel("a", "1", "MIT OR GPL-2.0-only"), ""),
        (Wheel("a", "1", "GPL-3.0-or-later WITH GCC-exception-3.1"), ""),
        (Wheel("a", "1", "MIT", (), ("libgomp-e985bcbb.so.1.0.0",)), ""),
        (Wheel("numpy", "1", "MIT", ("LICENSE.txt",)), ""),
        (Wheel("a", "1", "MIT AND GPL-2.0-only"), "it declares MIT AND GPL-2.0-only"),
        (Wheel("a", "1", "AGPL-3.0-only"), "it declares AGPL-3.0-only"),
        (Wheel("a", "1", "gpl-3.0-or-later"), "it declares gpl-3.0-or-later"),
        (Wheel("a", "1", "LGPL-3.0-only OR GPL-2.0-only"), ""),
        (Wheel("a", "1", "GPL-2.0-only OR AGPL-3.0-only"), "it declares GPL-2.0-only OR AGPL-3.0-only"),
        (
            Wheel("a", "1", "GPL-3.0-only AND Apache-2.0 WITH LLVM-exception"),
            "it declares GPL-3.0-only AND Apache-2.0 WITH LLVM-exception",
        ),
        (
            Wheel("a", "1", "GPL-2.0-only WITH Linux-syscall-note"),
            "it declares GPL-2.0-only WITH Linux-syscall-note",
        ),
        (Wheel("a", "1", "MIT", (), ("libfftw3f-1a.so.3.6.9",)), "it bundles libfftw3f-1a.so.3.6.9"),
        (Wheel("a", "1", "MIT", (), ("libpoppler-1a.so.147",)), "it bundles libpoppler-1a.so.147"),
        (Wheel("a", "1", "MIT", (), ("libx265-4883ecb5.so.217",)), "it bundles libx265-4883ecb5.so.217"),
        (
            Wheel("a", "1", "MIT", ("COPYING",)),
            "COPYING mentions it; if that is no licence of the wheel, say so in EXPLAINED",
        ),
    ],
)
def test_what_counts_as_the_gpl(wheel: Wheel, why: str) -> None:
    assert is_gpl(wheel) == why


def made(folder: Path, files: dict[str, str], *metadata: str) -> Path:
    """A wheel `part` 1.0 with these lines of metadata and these files."""
    path, info = folder / "part-1.0-py3-none-any.whl", "part-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.4", "Name: part", "Version: 1.0", *metadata, ""])
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in (files | {f"{info}/RECORD": "".join(f"{name},,\n" for name in files)}).items():
            wheel.writestr(name, content)
    return path


def test_a_wheel_is_read_for_what_its_metadata_does_not_say(tmp_path: Path) -> None:
    files = {
        "part.libs/libx265-48.so.217": "",
        "part.libs/libz.so": "",
        "part-1.0.dist-info/licenses/LICENSE": PYTHON_S,
    }
    found = read_wheel("part", made(tmp_path, files, "License: BSD"))
    assert found == Wheel("part", "1.0", "BSD-3-Clause", ("licenses/LICENSE",), ("libx265-48.so.217",))


@pytest.mark.parametrize(
    "field", ["License: GPL-2.0", "Classifier: License :: OSI Approved :: GNU General Public License v2 (GPLv2)"]
)
def test_metadata_that_names_the_gpl_beside_another_licence_is_a_mention(field: str, tmp_path: Path) -> None:
    found = read_wheel("part", made(tmp_path, {}, "License-Expression: MIT", field))
    assert found == Wheel("part", "1.0", "MIT", ("METADATA",))
    assert is_gpl(found).startswith("METADATA mentions it")


@pytest.mark.parametrize(
    "file",
    [
        "part-1.0.dist-info/licenses/x265.txt",
        "part/LICENSES/GPL-2.0-only.txt",
        "part/x265_LICENSE",
        "part/x265.COPYING",
    ],
)
def test_a_text_is_found_by_its_folder_and_by_the_end_of_its_name(file: str, tmp_path: Path) -> None:
    wheel = made(tmp_path, {file: "GNU GENERAL PUBLIC LICENSE"}, "License-Expression: MIT")
    assert [name.split("dist-info/")[-1] for name in read_wheel("part", wheel).mentions] == [
        file.split("dist-info/")[-1]
    ]


def test_code_about_licences_is_no_text(tmp_path: Path) -> None:
    files = dict.fromkeys(
        ("part/licenses.py", "part/licenses/read.py", "part/license_of.js", "part/licensed.so"), "GPL"
    )
    assert read_wheel("part", made(tmp_path, files, "License-Expression: MIT")).mentions == ()


def test_a_licence_that_is_not_understood_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"part says its licence is 'see the file'; name it in SPDX or NAMED"):
        read_wheel("part", made(tmp_path, {}, "License: see the file"))


def test_a_label_has_every_licence_once_and_the_gpl_where_it_was_asked_for() -> None:
    for target in TARGETS:
        parts = _licences(target, None, False).split(" AND ")
        assert len(parts) == len(set(parts))
        assert {"MIT", "Apache-2.0", "LicenseRef-Debian"} <= set(parts)
        assert ("LicenseRef-NVIDIA-Proprietary" in parts) == (target != "cpu")
        assert [part for part in parts if "GPL" in part] == ["GPL-3.0-or-later WITH GCC-exception-3.1"]
    assert "GPL-2.0-or-later" in _licences("cpu", None, True).split(" AND ")
    assert "NVIDIA" not in expression("training", cuda=False)


def test_notices_hold_the_texts_of_what_is_installed(tmp_path: Path) -> None:
    """As in an image: an environment, and what a layer of its own adds; the same again for the same packages."""
    for place, name in (("opt/venv", "below"), ("layer/opt/venv", "above")):
        site = tmp_path / place / "lib" / "python3.11" / "site-packages"
        info = site / f"{name}-2.0.dist-info"
        (info / "licenses").mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 2.0\nLicense-Expression: Zlib\n")
        (info / "licenses" / "LICENSE.md").write_text(f"Terms of {name}.\n")
        (site / "licence.py").write_text("code")
        (info / "RECORD").write_text(f"{info.name}/licenses/LICENSE.md,,\nlicence.py,,\n")
    venv = str(tmp_path / "opt" / "venv")
    folders = [f"{base}/lib/python3.11/site-packages" for base in (venv, f"{tmp_path}/layer/opt/venv")]
    text = notices.notices(folders)
    assert text == notices.notices(folders[::-1])
    assert text.index("above 2.0\nLicence: Zlib") < text.index("Terms of above.") < text.index("below 2.0")
    assert "Terms of below." in text
    assert "code" not in text.split("=" * 100, 1)[1]
    assert "NVIDIA's terms" in text
    notices.main(venv)
    assert "Terms of below." in (Path(venv) / notices.FILE).read_text(encoding="utf-8")
