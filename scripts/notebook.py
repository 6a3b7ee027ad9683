"""Run the notebook as a reader would, whole, and keep what it showed.

python -m scripts.notebook                            # in this environment: build/notebook/run/food_vision.{ipynb,html}
python -m scripts.notebook --fresh                    # in a new one that has a kernel and nothing else
python -m scripts.notebook --set DATA=folder --set PHOTOS=/data/photos
python -m scripts.notebook --strip                    # take the outputs out, before a commit
python -m scripts.notebook --repository https://github.com/you/food-vision    # where the badges and links lead
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "food_vision.ipynb"
WITH_ADDRESS = (NOTEBOOK, ROOT / "README.md")
RUN = Path("build/notebook/run")
NAME = r"[A-Za-z0-9](?:-?[A-Za-z0-9])*"  # of a GitHub account; the placeholder's underscore is none
ADDRESS = re.compile(rf"github(?:\.com)?/(?:YOUR_NAME|{NAME})/food-vision")
CELL_S = 3600  # the longest that one cell may take


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 1 where a cell fails."""
    parser = argparse.ArgumentParser(prog="python -m scripts.notebook", description="Run the notebook, whole.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--strip", action="store_true", help="take outputs and counters out of it, and stop")
    what.add_argument(
        "--repository", metavar="URL", help="write this address on GitHub into it and the README, and stop"
    )
    what.add_argument(
        "--fresh", action="store_true",
        help="a kernel with nothing else, and a clone of the last commit: the first cell installs all that is needed",
    )  # fmt: skip
    parser.add_argument("--python", type=Path, help="whose kernel to run it in (default: this one, or a new one)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="what its second code cell sets otherwise, for example DATA=folder; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=RUN, metavar="FOLDER", help="for what it showed (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.strip:
        return run("notebook", lambda: _strip(NOTEBOOK))
    if args.repository is not None:
        return run("notebook", lambda: _lead_to(args.repository))
    return run("notebook", lambda: _run(args))


# -- as it is kept -----------------------------------------------------------------------------------------------------


def stripped(notebook: NotebookNode) -> str:
    """The notebook's file as git has it: no outputs, no counters, nothing that an editor leaves in a cell."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        cell.metadata = NotebookNode({key: value for key, value in cell.metadata.items() if key == "cellView"})
    keep = ("accelerator", "colab", "kernelspec", "language_info")
    notebook.metadata = NotebookNode({key: value for key, value in notebook.metadata.items() if key in keep})
    notebook.metadata.language_info = NotebookNode(name="python")
    return str(nbformat.writes(notebook, indent=1)) + "\n"


def _strip(path: Path) -> int:
    write_text_atomic(path, stripped(nbformat.read(path, as_version=4)))
    return 0


def _lead_to(address: str) -> int:
    found = re.fullmatch(rf"https://github\.com/({NAME})/food-vision(?:\.git)?/?", address)
    if found is None:
        raise ContractError(f"{address!r} is not an address such as https://github.com/you/food-vision.")
    for path in WITH_ADDRESS:
        text = path.read_text(encoding="utf-8")
        write_text_atomic(path, ADDRESS.sub(lambda old: re.sub(r"/[^/]+/food", f"/{found[1]}/food", old[0]), text))
    return 0


# -- as it runs --------------------------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    place, python = NOTEBOOK.parent, args.python or Path(sys.executable)
    if args.fresh:
        place = out / "elsewhere"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        python = args.python or _bare_kernel(out / "bare")
        setting(notebook, "REPOSITORY", str(ROOT))
    for given in args.settings:
        name, equals, value = given.partition("=")
        if not equals:
            raise ContractError(f"--set takes NAME=VALUE, got {given!r}.")
        setting(notebook, name, value)
    os.environ["JUPYTER_PATH"] = str(_kernel(out, python, encrypts=args.python is None))
    safe = Config(KernelManager={"transport_encryption": "auto"})  # others of this machine cannot listen
    client = NotebookClient(
        notebook,
        config=safe,
        coalesce_streams=True,
        timeout=CELL_S,
        kernel_name="reader",
        resources={"metadata": {"path": str(place)}},
    )
    began, failed = time.monotonic(), None
    times: list[tuple[float, str]] = []
    client.on_cell_executed = lambda cell, cell_index, execute_reply: _tell(times, cell, began)
    try:
        client.execute()
    except CellExecutionError as error:
        failed = error
    except (AssertionError, DeadKernelError) as error:
        if client.km is None:  # Ctrl-C: nbclient takes its own kernel away, and either is what it then meets
            raise KeyboardInterrupt from None
        if isinstance(error, DeadKernelError):
            raise ContractError("the notebook's kernel died, most often because the memory is full.") from None
        raise
    file = out / NOTEBOOK.name
    nbformat.write(notebook, file)
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    write_text_atomic(file.with_suffix(".html"), page)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    print(f"{len(times)} of {cells} code cells in {time.monotonic() - began:.0f} s: {file.with_suffix('.html')}")
    if failed is not None:
        raise ContractError(f"a cell failed: {_said(notebook)}")
    return 0


def _tell(times: list[tuple[float, str]], cell: Any, began: float) -> None:
    now = time.monotonic() - began
    took = now - (times[-1][0] if times else 0.0)
    times.append((now, cell.id))
    print(f"{took:7.1f} s  {cell.id}", flush=True)


def _said(notebook: NotebookNode) -> str:
    """What the cell that failed said."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    error = next(output for output in outputs if output.output_type == "error")
    text = "".join(output.get("text", "") for output in outputs if output.output_type == "stream")
    return f"{error.ename}: {error.evalue}\n{text[-3000:]}"


def setting(notebook: NotebookNode, name: str, value: str) -> None:
    """Give a setting of the notebook another value, as a reader would type it. Raises `ContractError` for none."""
    line = re.compile(rf'^{re.escape(name)} = "[^"\n]*"', re.MULTILINE)
    for cell in notebook.cells:
        if cell.cell_type == "code" and line.search(cell.source):
            cell.source = line.sub(lambda _: f"{name} = {json.dumps(value)}", cell.source)
            return
    raise ContractError(f"The notebook has no setting {name}.")


def _kernel(out: Path, python: Path, *, encrypts: bool) -> Path:
    """A folder that describes a kernel of `python`, by the name `reader`; `encrypts`: it is as new as our pins."""
    argv = [str(python.absolute()), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    folder = out / "jupyter" / "kernels" / "reader"
    folder.mkdir(parents=True, exist_ok=True)
    can = {"supported_encryption": "curve"} if encrypts else {}
    spec = {"argv": argv, "display_name": "Python 3", "language": "python", "metadata": can}
    write_text_atomic(folder / "kernel.json", json.dumps(spec))
    return out / "jupyter"


def _bare_kernel(folder: Path) -> Path:
    """A new environment with a kernel and nothing else; its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), "ipykernel"]
    base = getattr(sys, "_base_executable", sys.executable)
    for command in ([base, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ContractError(f"a bare kernel could not be made: {done.stderr.strip().splitlines()[-1]}")
    return python


if __name__ == "__main__":
    sys.exit(main())
