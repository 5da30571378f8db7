"""A LightGBM model as an ONNX graph, for ONNX Runtime: nothing is installed for it, and float64 stays float64."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
from onnx import TensorProto, helper, numpy_helper

_OPSETS = (("", 18), ("ai.onnx.ml", 3))


def onnx_trees(booster: lightgbm.Booster, trees: int) -> bytes:
    """Return the graph of row (N, F) float64 -> probabilities (N, K) of the first `trees` rounds."""
    model = booster.dump_model(num_iteration=trees)
    classes, features = model["num_class"], model["max_feature_idx"] + 1
    nodes: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "modes", "featureids", "values")}
    nodes |= {"truenodeids": [], "falsenodeids": []}
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(tree: int, node: dict[str, Any]) -> int:
        """Add a node after its children's numbers are known; return its own."""
        number = counts[tree]
        counts[tree] += 1
        row = len(nodes["nodeids"])
        split = "split_feature" in node
        mode, feature, value = ("BRANCH_LEQ", node["split_feature"], node["threshold"]) if split else ("LEAF", 0, 0.0)
        for name, entry in zip(nodes, (tree, number, mode, feature, value, 0, 0), strict=True):
            nodes[name].append(entry)
        if split:
            nodes["truenodeids"][row] = add(tree, node["left_child"])
            nodes["falsenodeids"][row] = add(tree, node["right_child"])
        else:
            for name, entry in zip(leaves, (tree, number, tree % classes, node["leaf_value"]), strict=True):
                leaves[name].append(entry)
        return number

    counts = [0] * len(model["tree_info"])
    for tree, info in enumerate(model["tree_info"]):
        add(tree, info["tree_structure"])
    values, weights = np.array(nodes.pop("values")), np.array(leaves.pop("weights"))
    ensemble = helper.make_node(
        "TreeEnsembleRegressor",
        ["row"],
        ["margins"],
        domain="ai.onnx.ml",
        n_targets=classes,
        nodes_values_as_tensor=numpy_helper.from_array(values),
        target_weights_as_tensor=numpy_helper.from_array(weights),
        **{f"nodes_{name}": entries for name, entries in nodes.items()},
        **{f"target_{name}": entries for name, entries in leaves.items()},
    )
    softmax = helper.make_node("Softmax", ["margins"], ["probabilities"], axis=1)
    row = helper.make_tensor_value_info("row", TensorProto.DOUBLE, [None, features])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, classes])
    graph = helper.make_graph([ensemble, softmax], "trees", [row], [probabilities])
    opsets = [helper.make_opsetid(*opset) for opset in _OPSETS]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
