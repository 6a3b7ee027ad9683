"""The parts of docs/architecture.md that are made from the code: the house as a picture, and the table of its files.

python -m scripts.architecture --write    # after a file came, went or moved, or a wing imports another one
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from scripts.imports import ROOT, Arrows, Modules, between, floors, reduced, wing_of

PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
ROOMS = ("contract", "modeling", "training", "export", "app")
MOVED = "The old spelling of"  # begins the docstring of a command that only says where it has gone
GAP, MARGIN, LINE, HEAD = 34, 16, 15, 24  # pixels: between floors, beside boxes, a line of names, a title
LEFT, RIGHT = 330, 900  # pixels: width of the two columns, `app` in the right one
COLOURS = {"contract": "#e8eaf6", "modeling": "#e0f2f1", "training": "#fff3e0", "export": "#fce4ec", "app": "#e3f2fd"}


@dataclass
class Box:
    """A room or a wing on the picture; pixels."""

    name: str
    lines: list[str]
    x: float
    y: float
    width: float

    @property
    def height(self) -> float:
        return HEAD + LINE * len(self.lines) + 8

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def house() -> Modules:
    """The rooms of the product, without commands that have moved."""
    modules = Modules(ROOMS)
    for name in [one for one in modules.paths if modules.summary(one).startswith(MOVED)]:
        del modules.paths[name], modules.imports[name]
    return modules


def place_of(module: str) -> str:
    """Where a module stands on the picture: its wing within `app`, its room elsewhere."""
    return wing_of(module) if module.startswith("app.") else module.split(".")[0]


def drawn(modules: Modules) -> Arrows:
    """The arrows of the picture, without those that a longer way says too."""
    arrows = {name: to - {"app"} for name, to in modules.arrows().items() if name != "app"}
    return reduced(between(arrows, {name: place_of(name) for name in arrows}))


def files(modules: Modules, place: str) -> list[str]:
    """The names of a place's files, a string for each folder, those below the place with the folder before them.

    None where the place is a file itself; packages are told by what is in them.
    """
    folders: dict[str, list[str]] = {}
    for name, path in modules.paths.items():
        if name.startswith(f"{place}.") and path.name != "__init__.py":
            folder, _, file = name.removeprefix(f"{place}.").rpartition(".")
            folders.setdefault(folder, []).append(file)
    return [f"{folder}/ " * bool(folder) + ", ".join(sorted(names)) for folder, names in sorted(folders.items())]


def boxes(modules: Modules, arrows: Arrows) -> dict[str, Box]:
    """Every place with its size and position: `app` by its floors, the rooms beside it, `contract` below all."""
    found: dict[str, Box] = {}

    def box(name: str, x: float, y: float, width: float) -> Box:
        most = int((width - 16) / 5.7)  # characters
        lines = [line for names in files(modules, name) for line in textwrap.wrap(names, most)]
        found[name] = Box(name, lines, x, y, width)
        return found[name]

    wings = {name: {to for to in arrows[name] if to.startswith("app.")} for name in arrows if name.startswith("app.")}
    height = floors(wings)
    y: float = MARGIN + HEAD
    start = 2 * MARGIN + LEFT
    for floor in range(max(height.values()), -1, -1):
        row = sorted(name for name in wings if height[name] == floor)
        weights = [2.0 if files(modules, name) else 1.0 for name in row]
        unit = min((RIGHT - MARGIN * (len(row) - 1)) / sum(weights), 320)
        x = start + (RIGHT - unit * sum(weights) - MARGIN * (len(row) - 1)) / 2
        for name, weight in zip(row, weights, strict=True):
            box(name, x, y, unit * weight)
            x += unit * weight + MARGIN
        y += max(found[name].height for name in row) + GAP
    end = y
    low = box("modeling", MARGIN, 0, LEFT)
    low.y = end - GAP - low.height
    half = (LEFT - MARGIN) / 2
    for number, room in enumerate(("training", "export")):
        one = box(room, MARGIN + number * (half + MARGIN), MARGIN + HEAD, half)
        one.y = max(MARGIN + HEAD, (low.y - one.height) / 2)
    box("contract", MARGIN, end, 2 * MARGIN + LEFT + RIGHT - MARGIN)
    return found


def picture(modules: Modules) -> str:
    """The house as SVG."""
    arrows = drawn(modules)
    places = boxes(modules, arrows)
    width, ground = LEFT + RIGHT + 3 * MARGIN, places["contract"]
    height = ground.y + ground.height + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">',
        "<title>The rooms of food-vision, the wings of app, and who imports whom</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#546e7a"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
        f'<rect x="{2 * MARGIN + LEFT - 8}" y="{MARGIN - 4}" width="{RIGHT + 16}" height="{ground.y - MARGIN - GAP / 2:g}" '
        'rx="8" fill="none" stroke="#90a4ae" stroke-dasharray="4 4"/>',
        f'<text x="{2 * MARGIN + LEFT}" y="{MARGIN + 14}" font-size="14" font-weight="bold" fill="#37474f">app/</text>',
    ]
    for name, to in sorted(arrows.items()):
        for other in sorted(to):
            out.append(_arrow(places[name], places[other]))
    for name, box in sorted(places.items()):
        out += _box(box, COLOURS[name.split(".")[0]], is_file=not files(modules, name))
    return "\n".join([*out, "</svg>"]) + "\n"


def _arrow(upper: Box, lower: Box) -> str:
    """From the lower edge of one box to the upper edge of another; where one is above the other it goes straight down."""
    left, right = max(upper.x, lower.x) + 12, min(upper.x + upper.width, lower.x + lower.width) - 12
    if left <= right:
        x1 = x2 = min(max(lower.middle if lower.width < upper.width else upper.middle, left), right)
    else:
        x1, x2 = (
            (upper.x + upper.width - 12, lower.x + 12)
            if upper.x < lower.x
            else (upper.x + 12, lower.x + lower.width - 12)
        )
    y1, y2 = upper.y + upper.height, lower.y - 2
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}" fill="none" '
        'stroke="#546e7a" stroke-width="1.3" marker-end="url(#tip)"/>'
    )


def _box(box: Box, colour: str, *, is_file: bool) -> list[str]:
    title = box.name.removeprefix("app.") + (".py" if is_file else "/")
    out = [
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" rx="5" '
        f'fill="{colour}" stroke="#546e7a"/>',
        f'<text x="{box.x + 8:.0f}" y="{box.y + 17:.0f}" font-size="13" font-weight="bold">{escape(title)}</text>',
    ]
    for number, line in enumerate(box.lines, 1):
        y = box.y + HEAD + LINE * number - 5
        out.append(f'<text x="{box.x + 8:.0f}" y="{y:.0f}" font-size="11" fill="#37474f">{escape(line)}</text>')
    return out


def table(modules: Modules) -> str:
    """Every file of the product with the first sentence of its docstring, a heading for each room and wing."""
    out: list[str] = []
    heading = ""
    order = sorted(modules.paths.items(), key=lambda one: (ROOMS[::-1].index(one[0].split(".")[0]), one[1].parent, one))
    for name, path in order:
        path = path.relative_to(ROOT)
        if path.name == "__init__.py":
            continue
        if (folder := path.parent.as_posix()) != heading:
            heading = folder
            package = modules.summary(folder.replace("/", "."))
            out += ["", f"### `{folder}/`", "", package, "", "| file | what it holds |", "|---|---|"]
        what = modules.summary(name).replace("|", "\\|")
        out.append(f"| [{path.name}](../{path.as_posix()}) | {what} |")
    return "\n".join(out).strip("\n")


def expected() -> dict[Path, str]:
    """What the files should hold. Raises `ContractError` when the page has lost its place for the table."""
    modules = house()
    begin, end = "<!-- files: made by scripts.architecture -->\n", "<!-- end of files -->\n"
    page = PAGE.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise ContractError(f"{PAGE} has no place for the table: it must hold {begin.strip()} and {end.strip()}.")
    before, _, rest = page.partition(begin)
    return {
        PICTURE: picture(modules),
        PAGE: f"{before}{begin}\n{table(modules)}\n\n{end}{rest.partition(end)[2]}",
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; 1 when a file is not what the code says."""
    parser = argparse.ArgumentParser(prog="python -m scripts.architecture", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the files; without it they are compared")
    return run("architecture", lambda: _main(write=parser.parse_args(argv).write))


def _main(*, write: bool) -> int:
    wrong = {
        path: text
        for path, text in expected().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    }
    for path, text in wrong.items():
        if write:
            write_text_atomic(path, text)
        print(f"docs/{path.name}: {'written' if write else 'is not what the code says; --write mends it'}",
              file=sys.stdout if write else sys.stderr)  # fmt: skip
    return 0 if write or not wrong else 1


if __name__ == "__main__":
    raise SystemExit(main())
