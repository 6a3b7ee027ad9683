"""Draw a picture of food, a sheet of all kinds, or a folder of labelled pictures to train on.

python -m training.drawn --index 3 --out picture.png
python -m training.drawn --sheet --out sheet.png
python -m training.drawn --each 16 --out drawings
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from PIL import Image, ImageDraw, ImageFont

from contract.cli import run
from contract.errors import ContractError
from contract.files import new_folder
from training.drawn.pictures import FOODS, MAX_SIZE, MIN_SIZE, draw

_PER_FOOD, _COLUMNS, _CAPTION = 4, 8, 18


def _sheet(seed: int, size: int) -> Image.Image:
    """A contact sheet of four pictures of every food, its name below them."""
    groups = _COLUMNS // _PER_FOOD
    sheet = Image.new("RGB", (_COLUMNS * size, -(-len(FOODS) // groups) * (size + _CAPTION)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for label, name in enumerate(FOODS):
        left, top = label % groups * _PER_FOOD * size, label // groups * (size + _CAPTION)
        for i in range(_PER_FOOD):
            sheet.paste(draw(label + i * len(FOODS), seed=seed, size=size)[0], (left + i * size, top))
        pen.text((left + 4, top + size + 1), name, fill="black", font=font)
    return sheet


def _folder(path: Path, each: int, seed: int, size: int) -> int:
    """Write `each` pictures of every food to path/<food>/<index>.png; returns the exit code 0.

    Raises `ContractError` where there is something already.
    """
    if path.is_dir() and any(path.iterdir()):
        raise ContractError(f"{path} exists already and is not empty; choose a new folder.")
    with new_folder(path, marker=FOODS[0]) as folder:
        for index in range(each * len(FOODS)):
            picture, label = draw(index, seed=seed, size=size)
            file = folder / FOODS[label] / f"{index:06}.png"
            file.parent.mkdir(exist_ok=True)
            picture.save(file)
    print(f"{each * len(FOODS)} pictures of {len(FOODS)} foods: {path}")
    return 0


class _UsageError(Exception):
    """Wrong usage; the message is one sentence for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def _whole(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 0 on, at most 18 digits, not {text[:40]!r}")
    return int(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m training.drawn", description="Draw pictures of food.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--index", type=_whole, metavar="N", help="draw picture N, 0 or more; its food is N modulo 16")
    what.add_argument(
        "--sheet", action="store_true", help="draw a contact sheet: 4 pictures of every food with its name"
    )
    what.add_argument(
        "--each",
        type=_whole,
        metavar="N",
        help="draw N pictures, 1 or more, of every food into OUT/<food>/, to train on",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write, .png, .jpg or .jpeg; or a new folder"
    )
    parser.add_argument("--seed", type=_whole, default=0, metavar="N", help="series to draw, 0 or more (default: 0)")
    limits = f"{MIN_SIZE} to {MAX_SIZE}, default: 128"
    parser.add_argument(
        "--size", type=_whole, default=128, metavar="PX", help=f"side of a picture in pixels ({limits})"
    )
    args = parser.parse_args(argv)
    if not MIN_SIZE <= args.size <= MAX_SIZE:
        parser.error(f"--size must be from {MIN_SIZE} to {MAX_SIZE} pixels, not {args.size}")
    if args.each == 0:
        parser.error("--each must be 1 or more, not 0")
    if args.each is None and args.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        parser.error(f"--out must end in .png, .jpg or .jpeg, not {args.out.name!r}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns 0 when the file is written, 1 when it cannot be, 2 on wrong usage."""
    try:
        args = _parse(argv)
    except _UsageError as wrong:
        print(f"drawn: {wrong}", file=sys.stderr)
        return 2
    if args.each is not None:
        return run("drawn", lambda: _folder(args.out, args.each, args.seed, args.size))
    picture = _sheet(args.seed, args.size) if args.sheet else draw(args.index, seed=args.seed, size=args.size)[0]
    data = io.BytesIO()
    picture.save(data, format="PNG" if args.out.suffix.lower() == ".png" else "JPEG")
    try:
        args.out.write_bytes(data.getvalue())
    except OSError as failure:
        print(f"drawn: cannot write {args.out}: {failure.strerror or failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
