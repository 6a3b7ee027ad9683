"""The wings of each room: which way data runs, what none may know, and that no way leads back.

By reading the imports, those for type checkers and within functions too.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest

from scripts.imports import Arrows, Modules, between, floors, imported, reachable, reduced, wing_of

MODULES = Modules()
ARROWS = MODULES.arrows()
PRODUCT = ("contract", "modeling", "training", "export", "app")
# Each may import those below it, and none above. Those on one line do not know each other.
BELOW = [
    {"app.protocols"},
    {"app.web"},
    {"app.serving"},
    {"app.engine"},
    {"app.decoding", "app.providers", "app.telemetry"},
    {"app.faults", "app.cores", "app.heap", "app.key_file"},
]
WINGS = set().union(*BELOW)
WEB = {"fastapi", "starlette", "uvicorn", "python_multipart", "httptools"}


def in_wing(wing: str) -> list[str]:
    """The modules of a wing, its package among them."""
    found = [name for name in ARROWS if wing_of(name) == wing]
    assert found, wing
    return found


def wings_of(room: str, arrows: Arrows = ARROWS) -> Arrows:
    """The arrows between the wings of a room."""
    inside = {name for name in arrows if name.split(".")[0] == room and name != room}
    return between({name: arrows[name] & inside for name in inside}, {name: wing_of(name) for name in inside})


def broken(arrows: Arrows) -> list[str]:
    """What of the arrows between the wings of `app` runs back, or to a neighbour."""
    return [
        f"{wing} → {other}"
        for height, line in enumerate(BELOW)
        for wing in line
        for other in arrows[wing] & WINGS
        if other not in set().union(*BELOW[height + 1 :])
    ]


def all_outside(wing: str) -> dict[str, set[str]]:
    """The packages of others that come with each module of a wing, also through others of ours."""
    return {name: set().union(*(MODULES.outside(one) for one in reachable(ARROWS, name))) for name in in_wing(wing)}


def test_data_runs_one_way() -> None:
    assert not broken(wings_of("app"))


def test_an_arrow_that_runs_back_would_be_seen() -> None:
    back = {name: set(to) for name, to in ARROWS.items()}
    back["app.telemetry.record"].add("app.serving.batcher")
    assert broken(wings_of("app", back)) == ["app.telemetry → app.serving"]
    aside = {name: set(to) for name, to in ARROWS.items()}
    aside["app.decoding.pool"].add("app.telemetry.record")
    assert broken(wings_of("app", aside)) == ["app.decoding → app.telemetry"]


def test_every_wing_has_its_place() -> None:
    above = {"app.__main__", "app.server", "app.settings", "app.bulk", "app.tools"}
    old_spellings = {"app.fetch", "app.engines", "app.smoke"}
    assert set(wings_of("app")) == WINGS | above | old_spellings
    for wing in WINGS - {"app.serving", "app.web", "app.protocols"}:
        assert not reachable(wings_of("app"), wing) & above, wing


@pytest.mark.parametrize("room", PRODUCT)
def test_no_circle(room: str) -> None:
    floors(wings_of(room))


def test_no_circle_in_the_whole_house() -> None:
    floors(ARROWS)


@pytest.mark.parametrize("wing", sorted(WINGS - {"app.web", "app.protocols"} | {"app.settings", "app.bulk"}))
def test_no_web_framework_comes_with(wing: str) -> None:
    known = {name: web for name, found in all_outside(wing).items() if (web := found & WEB)}
    assert not known


@pytest.mark.parametrize("wing", ["app.engine", "app.decoding", "app.providers", "app.telemetry"])
def test_settings_are_not_known(wing: str) -> None:
    assert not [name for name in in_wing(wing) if "app.settings" in reachable(ARROWS, name)]


def test_bulk_needs_nothing_of_the_web() -> None:
    for name in in_wing("app.bulk"):
        ours = {wing_of(one) for one in reachable(ARROWS, name)}
        assert not ours & {"app.web", "app.protocols", "app.server", "app.__main__"}, name
    assert not [name for name, found in all_outside("app.bulk").items() if found & {*WEB, "prometheus_client"}]


def test_tools_stand_beside_the_service() -> None:
    for name in in_wing("app.tools"):
        ours = {wing_of(one) for one in reachable(ARROWS, name)}
        assert not ours & {"app.web", "app.protocols", "app.server", "app.bulk"}, name


def test_telemetry_knows_no_service_and_its_record_nothing() -> None:
    for name in in_wing("app.telemetry"):
        assert not {one for one in reachable(ARROWS, name) if wing_of(one) == "app.serving"}, name
    assert not ARROWS["app.telemetry.record"]


@pytest.mark.parametrize("wing", ["app.bulk", "app.protocols", "app.protocols.oip", "app.telemetry", "app.web"])
def test_a_wing_that_lists_its_files_names_each_once(wing: str) -> None:
    package = MODULES.paths[wing]
    named = re.findall(r"\b(\w+\.py)\b", ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))) or "")
    assert sorted(named) == sorted(file.name for file in package.parent.glob("*.py") if file != package)


def test_puzzling_names_stay_away() -> None:
    """`engines` beside `engine`, two kinds of measuring: names that readers took for something else."""
    names = {name.rpartition(".")[2] for name in ARROWS if name not in ("app.engines", "export.engines")}
    assert not names & {"engines", "observed", "ready", "mixing", "items", "measure"}


def classes(source: str) -> set[str]:
    """Public classes at the top of Python text, under an `if` too, and names that are given as to a class."""
    found: set[str] = set()
    left: list[ast.AST] = [ast.parse(source)]
    while left:
        node = left.pop()
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call | ast.Name):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name) and not one.id.isupper()}
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            left += ast.iter_child_nodes(node)
    return {name for name in found if name[0].isupper()}


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for name, path in MODULES.paths.items():
        if name.split(".")[0] in PRODUCT:
            for one in classes(path.read_text(encoding="utf-8")):
                places[one].append(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}
    assert classes("class _A: ...\nclass B:\n  class C: ...\nif d:\n  class E: ...\nF = G\nH = 1\nI = J()\nKL = 2") == {
        "B", "E",
    }  # fmt: skip


def test_packages_hold_nothing() -> None:
    """What a package's `__init__` imports would come with each of its files, and could lead in a circle."""
    for name, path in MODULES.paths.items():
        if path.name == "__init__.py" and name.split(".")[0] in PRODUCT:
            assert MODULES.imports[name] <= {"os"}, name


# -- how it is read -----------------------------------------------------------------------------------------------------


def test_imports_are_read_wherever_they_stand() -> None:
    text = (
        "import a.b\nfrom c import d\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from e.f import g as h\n"
        "def i():\n    import j as k\n    importlib.import_module('l.m')\n    __import__('n')\nfrom . import o\n"
    )
    assert imported(text) == {"a.b", "c.d", "typing.TYPE_CHECKING", "e.f.g", "j", "l.m", "n"}


def test_circles_are_named_and_floors_counted() -> None:
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": 2, "b": 1, "c": 0}
    with pytest.raises(ValueError, match="a → b → a"):
        floors({"a": {"b"}, "b": {"a"}})


def test_what_a_longer_way_says_is_left_out() -> None:
    assert reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_with_a_module_come_the_packages_above_it() -> None:
    assert reachable({"a.b": {"c.d"}, "a": {"e"}, "c": set(), "c.d": set(), "e": set()}, "a.b") == {
        "a.b", "a", "e", "c.d", "c",
    }  # fmt: skip
