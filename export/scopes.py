"""Each node's module path, which torch's exporter notes beside it: kept through export, read by quantisation and reports."""

from __future__ import annotations

import ast

from onnx import ModelProto, NodeProto

SCOPES = "pkg.torch.onnx.name_scopes"  # the exporter's key


def name_scopes(node: NodeProto) -> list[str] | None:
    """Paths of the modules around a node, outermost first, then the operator's own name; None without the note."""
    found = next((note.value for note in node.metadata_props if note.key == SCOPES), None)
    return None if found is None else ast.literal_eval(found)


def keep_scopes(node: NodeProto, of: NodeProto | None) -> None:
    """Replace all notes of a node by the module path of `of`, which may be the node itself; None: by nothing."""
    kept = [note for note in of.metadata_props if note.key == SCOPES] if of is not None else []
    del node.metadata_props[:]
    node.metadata_props.extend(kept)


def keep_all_scopes(made: ModelProto, of: ModelProto) -> None:
    """Give each node of a quantised graph the module path of the one that it replaces; other notes of the tool go."""
    before = {node.name: node for node in of.graph.node}
    for node in made.graph.node:
        keep_scopes(node, of=before.get(node.name.removesuffix("_quant")))
