"""Which provider runs which node: strict sessions of every graph, in every precision, as the service opens them."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.gpu.placed import LARGEST, SERVED, place
from benchmarks.gpu.speed import open_bundle, precisions
from contract.errors import ContractError


def partition(args: argparse.Namespace) -> dict[str, Any]:
    """Nodes on CUDA, for any batch and for the largest bucket; each session runs once.

    Raises `ContractError` that names the graph and why not all of it is there.
    """
    found: dict[str, Any] = {}
    for precision in precisions(args):
        bundle = open_bundle(args.work, precision)
        for file in SERVED:
            for batch in (None, LARGEST):
                name = f"{precision}, {file}, {'any batch' if batch is None else f'batch {batch}'}"
                placed = place(bundle.graph(file), batch)
                if fault := placed["fault"] or placed["cudnn"]:
                    raise ContractError(f"{name}: {fault}")
                found[name] = placed["nodes"]
    return found
