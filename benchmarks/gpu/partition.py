"""Which provider runs which node: strict sessions of every graph, in every precision, as the service opens them."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import onnxruntime as ort

from app.engine.batches import buckets
from app.providers.sessions import open_session
from benchmarks.gpu.speed import open_bundle, precisions
from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE

LARGEST = 32  # photos: the bucket that is looked at beside graphs of any batch


def partition(args: argparse.Namespace) -> dict[str, Any]:
    """Nodes by provider, for any batch and for the largest bucket. Raises what `open_session` raises: a node elsewhere."""
    found: dict[str, Any] = {}
    for precision in precisions(args):
        bundle = open_bundle(args.work, precision)
        for file in (ENCODER_FILE, SCORER_FILE, DECODER_FILE):
            for batch in (None, buckets(LARGEST)[-1]):
                session = open_session(
                    bundle.graph(file), args.provider, 0, fixed={} if batch is None else {"batch": batch},
                    precision=precision, cudnn=bundle.manifest.needs_cudnn,
                )  # fmt: skip
                name = f"{precision}, {file}, " + ("any batch" if batch is None else f"batch {batch}")
                found[name] = _nodes(session) if args.provider != "cpu" else session.get_providers()
    return found


def _nodes(session: ort.InferenceSession) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counted[part.ep_name] += len(part.get_nodes())
    return dict(counted)
