"""Who imports whom, read from the source: modules, the wings that they stand in, and the arrows between them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ("contract", "modeling", "training", "export", "app", "benchmarks")
DYNAMIC = {"import_module", "__import__", "find_spec", "run_module"}
# Ways to run a module that no reading of imports follows; `find_spec` only looks for one.
HIDDEN = {
    "import_module", "__import__", "run_module", "run_path", "exec", "eval", "resolve_name", "spec_from_file_location",
    "SourceFileLoader", "__builtins__",
}  # fmt: skip

Arrows = dict[str, set[str]]


def imported(source: str) -> set[str]:
    """Full names that Python text imports anywhere, within functions and for type checkers too.

    `from a.b import c` gives `a.b.c`: what of it is the module, `Modules.arrows` knows. Strings
    given to `import_module` and its like count too.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in DYNAMIC:
            found |= {str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant)}
    return found


def hidden(source: str) -> set[str]:
    """What of Python text could import something that `imported` does not see.

    `torch.nn.Module.eval` and its like are methods: `eval` and `exec` count as names alone.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {"." * node.level} - {""} | {alias.name for alias in node.names} & HIDDEN
        elif isinstance(node, ast.Name):
            found |= {node.id} & HIDDEN
        elif isinstance(node, ast.Attribute):
            found |= {node.attr} & (HIDDEN - {"exec", "eval"})
            if _dotted(node) == "sys.modules":
                found.add("sys.modules")
    return found


def mentioned(source: str) -> set[str]:
    """Full names that Python text imports or reaches from an import: `np.load` is `numpy.load`."""
    tree = ast.parse(source)
    full: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else
                     alias.name.partition(".")[0] for alias in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = imported(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := _dotted(node)):
            first, dot, rest = name.partition(".")
            found.add(f"{full.get(first, first)}{dot}{rest}")
    return found


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as text; empty where something else than a name stands first."""
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


class Modules:
    """The modules below some rooms of a checkout, by their full names; a package's `__init__` has the package's name."""

    def __init__(self, rooms: Iterable[str] = ROOMS, root: Path = ROOT) -> None:
        self.paths: dict[str, Path] = {}
        for room in rooms:
            for path in sorted((root / room).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                self.paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self.imports: Arrows = {name: imported(path.read_text(encoding="utf-8")) for name, path in self.paths.items()}

    def arrows(self) -> Arrows:
        """From each module to those of ours that it imports, itself left out."""
        return {
            name: {ours for one in found if (ours := self._ours(one)) is not None and ours != name}
            for name, found in self.imports.items()
        }

    def outside(self, name: str) -> set[str]:
        """Top-level packages of others that a module imports."""
        return {one.partition(".")[0] for one in self.imports[name] if self._ours(one) is None}

    def summary(self, name: str) -> str:
        """The first sentence of a module's docstring, on one line."""
        text = ast.get_docstring(ast.parse(self.paths[name].read_text(encoding="utf-8"))) or ""
        return " ".join(text.split("\n\n")[0].split())

    def _ours(self, name: str) -> str | None:
        """The module that an imported name is or lies in."""
        while name and name not in self.paths:
            name = name.rpartition(".")[0]
        return name or None


def wing_of(module: str) -> str:
    """The wing that a module stands in: `app.web` for `app.web.body`; a file at a room's top is a wing of its own.

    Packages below a wing belong to it.
    """
    return ".".join(module.split(".")[:2])


def between(arrows: Mapping[str, set[str]], group: Mapping[str, str]) -> Arrows:
    """The arrows between groups of modules: each module's group, itself left out."""
    found: Arrows = {one: set() for one in group.values()}
    for name, others in arrows.items():
        found[group[name]] |= {group[other] for other in others} - {group[name]}
    return found


def reachable(arrows: Mapping[str, set[str]], start: str) -> set[str]:
    """All that is imported with a module, directly or through others, itself and the packages above each included."""
    found: set[str] = set()
    left = [start]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        left += arrows.get(name, set())
        if (package := name.rpartition(".")[0]) in arrows:
            left.append(package)
    return found


def floors(arrows: Mapping[str, set[str]]) -> dict[str, int]:
    """How far each is above the ground: 0 imports nothing, others stand one above the highest that they import.

    Raises `ValueError` that names a circle, where there is one.
    """
    height: dict[str, int] = {}
    under_way: list[str] = []

    def of(name: str) -> int:
        if name in under_way:
            raise ValueError("a circle: " + " → ".join([*under_way[under_way.index(name) :], name]))
        if name not in height:
            under_way.append(name)
            height[name] = 1 + max((of(other) for other in sorted(arrows[name])), default=-1)
            under_way.pop()
        return height[name]

    for name in arrows:
        of(name)
    return height


def reduced(arrows: Mapping[str, set[str]]) -> Arrows:
    """Without the arrows that a longer way says too; for arrows without a circle."""
    below = {name: reachable(arrows, name) - {name} for name in arrows}
    return {name: {one for one in to if not any(one in below[other] for other in to)} for name, to in arrows.items()}
