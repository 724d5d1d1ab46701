"""Fitted pipelines as ONNX graphs, byte for byte the same for the same pipeline.

Holds the graph of each estimator with its calibration folded in; does not hold the graph of a user's own estimator
(`core/user_graph.py`), the check that graph and pipeline agree (`core/model.py: parity`) or the scoring
(`serving/artefact.py`).

The graphs of the platform's own estimators are written node by node instead of by a converter, because engines
compare in float32: a split between two neighbouring float32 values, rounded to the nearest, sends a row down the wrong
branch (a score 0.99 off, measured with skl2onnx 1.20). Rounding thresholds down makes float32 decide as float64 does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from retrain_assets.core.estimators import BoostedTrees, LogisticModel, round_down
from retrain_assets.core.pipeline import Calibration, SuccessPipeline
from retrain_assets.core.user_estimator import UserEstimator
from retrain_assets.core.user_graph import user_graph

INPUT_NAME = "rows"
OUTPUT_NAME = "probability"
GRAPH_NAME = "retrain_assets"
OPSET = {"": 17, "ai.onnx.ml": 3}
"""Operator sets by domain: old enough for every onnxruntime since 1.14."""
IR_VERSION = 8

_Graph = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


def convert(pipeline: SuccessPipeline) -> bytes:
    """The pipeline's ONNX graph: encoded float32 rows to calibrated P(success).

    Parameters
    ----------
    pipeline : SuccessPipeline

    Returns
    -------
    bytes
        A model with the input `rows`, float32 of shape (N, width), and the output `probability`,
        float32 of shape (N, 1).

    Raises
    ------
    TypeError
        When the estimator has no graph.
    ConfigError, ArtefactRefused
        A user's own estimator cannot be converted.
    """
    width, calibration = pipeline.encoding.width, pipeline.calibration
    match pipeline.estimator:
        case BoostedTrees() as trees:
            nodes, constants = _trees_graph(trees, calibration)
        case LogisticModel() as logistic:
            nodes, constants = _logistic_graph(logistic, calibration, len(pipeline.encoding.actions))
        case UserEstimator() as own:
            nodes, constants = user_graph(own, calibration, OPSET, INPUT_NAME, OUTPUT_NAME)
        case other:
            raise TypeError(f"{type(other).__name__} has no ONNX graph; add one to core/conversion.py")
    graph = helper.make_graph(
        nodes,
        GRAPH_NAME,
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 1])],
        constants,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSET.items()]
    model = helper.make_model(graph, opset_imports=opsets, producer_name=GRAPH_NAME, ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _trees_graph(trees: BoostedTrees, calibration: Calibration) -> _Graph:
    arrays = trees.node_arrays()
    counts = [len(array) for array in arrays]
    nodes = np.concatenate(arrays)
    tree_of = np.repeat(np.arange(len(arrays)), counts)
    node_of = np.concatenate([np.arange(count) for count in counts])
    leaf = nodes["is_leaf"].astype(bool)

    def inner(values: np.ndarray) -> list[int]:
        return np.where(leaf, 0, values).astype(int).tolist()  # type: ignore[no-any-return]

    node = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT_NAME],
        ["log_odds"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=[trees.baseline * calibration.slope + calibration.intercept],
        nodes_treeids=tree_of.tolist(),
        nodes_nodeids=node_of.tolist(),
        nodes_featureids=inner(nodes["feature_idx"]),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_values=np.where(leaf, np.float32(0), round_down(nodes["num_threshold"])).tolist(),
        nodes_truenodeids=inner(nodes["left"]),
        nodes_falsenodeids=inner(nodes["right"]),
        nodes_missing_value_tracks_true=inner(nodes["missing_go_to_left"]),
        target_treeids=tree_of[leaf].tolist(),
        target_nodeids=node_of[leaf].tolist(),
        target_ids=[0] * int(leaf.sum()),
        target_weights=(nodes["value"][leaf] * calibration.slope).tolist(),
    )
    return [node, _sigmoid()], []


def _logistic_graph(model: LogisticModel, calibration: Calibration, actions: int) -> _Graph:
    """design(rows) @ weights, then the column of the row's action."""
    weights = np.column_stack([model.weights, model.shared]) * calibration.slope
    weights[0] += calibration.intercept
    numbers, features = len(model.numbers), weights.shape[0] - 1 - len(model.numbers) - len(model.flag_columns)
    first_flag = 1 + numbers + features
    constants = {
        "number_columns": model.numbers.astype(np.int64),
        "feature_columns": np.arange(features, dtype=np.int64),
        "flag_columns": model.flag_columns.astype(np.int64),
        "action_column": np.array([features], dtype=np.int64),
        "mean": model.mean.astype(np.float32)[None, :],
        "scale": model.scale.astype(np.float32)[None, :],
        "lowest": np.float32(-10.0),
        "highest": np.float32(10.0),
        "zero": np.float32(0.0),
        "flag_codes": model.flag_codes[None, :],
        # The last column answers for an unknown action, whose code is -1.
        "action_codes": np.array([[*range(actions), -1]], dtype=np.float32),
        "constant": weights[:1].astype(np.float32),
        "number_weights": weights[1 : 1 + numbers].astype(np.float32),
        "missing_weights": weights[1 + numbers : first_flag].astype(np.float32),
        "flag_weights": weights[first_flag:].astype(np.float32),
        "last_axis": np.array([1], dtype=np.int64),
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Gather", ["rows", "number_columns"], "numbers", {"axis": 1}),
        ("Sub", ["numbers", "mean"], "centred", {}),
        ("Div", ["centred", "scale"], "scaled", {}),
        ("Clip", ["scaled", "lowest", "highest"], "clipped", {}),
        ("IsNaN", ["numbers"], "number_missing", {}),
        ("Where", ["number_missing", "zero", "clipped"], "imputed", {}),
        ("MatMul", ["imputed", "number_weights"], "of_numbers", {}),
        ("Gather", ["rows", "feature_columns"], "features", {"axis": 1}),
        ("IsNaN", ["features"], "missing", {}),
        ("Cast", ["missing"], "missing_flags", {"to": TensorProto.FLOAT}),
        ("MatMul", ["missing_flags", "missing_weights"], "of_missing", {}),
        ("Gather", ["rows", "flag_columns"], "flag_values", {"axis": 1}),
        ("Equal", ["flag_values", "flag_codes"], "flag_hits", {}),
        ("Cast", ["flag_hits"], "flags", {"to": TensorProto.FLOAT}),
        ("MatMul", ["flags", "flag_weights"], "of_flags", {}),
        ("Sum", ["of_numbers", "of_missing", "of_flags", "constant"], "of_actions", {}),
        ("Gather", ["rows", "action_column"], "action", {"axis": 1}),
        ("Equal", ["action", "action_codes"], "action_hit", {}),
        ("Where", ["action_hit", "of_actions", "zero"], "chosen", {}),
        ("ReduceSum", ["chosen", "last_axis"], "log_odds", {"keepdims": 1}),
    ]
    nodes = [helper.make_node(kind, inputs, [output], **settings) for kind, inputs, output, settings in steps]
    return [*nodes, _sigmoid()], [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]


def _sigmoid() -> onnx.NodeProto:
    return helper.make_node("Sigmoid", ["log_odds"], [OUTPUT_NAME])
