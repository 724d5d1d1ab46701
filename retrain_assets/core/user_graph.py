"""A user's own estimator as part of an ONNX graph.

Holds the nodes around what skl2onnx makes of the estimator; does not hold the graphs that are written by hand or the
finished model (`core/conversion.py`), or the check that graph and pipeline agree (`core/model.py: parity`). skl2onnx is
an extra (`convert`), imported here and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from retrain_assets.core.user_estimator import CERTAIN, UserEstimator
from retrain_assets.errors import ArtefactRefused, ConfigError

if TYPE_CHECKING:
    from retrain_assets.core.pipeline import Calibration

MISSING_EXTRA = "needs skl2onnx to become a graph that engines load; install the extra `convert`"
_PREPARED = "own_prepared"


def user_graph(
    model: UserEstimator, calibration: Calibration, opset: dict[str, int], input_name: str, output_name: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Preparation, the converted estimator, calibration: nodes and constants.

    Raises
    ------
    ConfigError
        skl2onnx is not installed.
    ArtefactRefused
        skl2onnx cannot convert the estimator.
    """
    nodes, constants, probabilities = _converted(model, opset)
    values: dict[str, Any] = {
        "own_low": model.low[None, :],
        "own_high": model.high[None, :],
        "own_empty": model.empty[None, :],
        "own_zero": np.float32(0.0),
        "own_column": np.array([model.success_column], dtype=np.int64),
        "own_least": np.float32(CERTAIN),
        "own_most": np.float32(1 - CERTAIN),
        "own_one": np.float32(1.0),
        "own_slope": np.float32(calibration.slope),
        "own_intercept": np.float32(calibration.intercept),
    }
    before: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Less", [input_name, "own_low"], "own_is_low", {}),
        ("Where", ["own_is_low", "own_low", input_name], "own_raised", {}),
        ("Greater", ["own_raised", "own_high"], "own_is_high", {}),
        ("Where", ["own_is_high", "own_high", "own_raised"], "own_held", {}),
        ("Where", ["own_empty", "own_zero", "own_held"], _PREPARED, {}),
    ]
    is_plain = calibration.method == "none"
    after: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Gather", [probabilities, "own_column"], "own_success", {"axis": 1}),
        ("Clip", ["own_success", "own_least", "own_most"], output_name if is_plain else "own_certain", {}),
    ]
    if not is_plain:
        after += [
            ("Sub", ["own_one", "own_certain"], "own_failure", {}),
            ("Div", ["own_certain", "own_failure"], "own_odds", {}),
            ("Log", ["own_odds"], "own_log_odds", {}),
            ("Mul", ["own_log_odds", "own_slope"], "own_scaled", {}),
            ("Add", ["own_scaled", "own_intercept"], "own_calibrated", {}),
            ("Sigmoid", ["own_calibrated"], output_name, {}),
        ]
    made = [[helper.make_node(kind, inputs, [output], **settings) for kind, inputs, output, settings in part]
            for part in (before, after)]  # fmt: skip
    own = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    needed = _needed([*made[0], *nodes, *made[1]], output_name)
    used = {name for node in needed for name in node.input}
    return needed, [constant for constant in [*own, *constants] if constant.name in used]


def _converted(model: UserEstimator, opset: dict[str, int]) -> tuple[list[NodeProto], list[TensorProto], str]:
    try:
        from skl2onnx import convert_sklearn  # type: ignore[import-untyped]
        from skl2onnx.common.data_types import FloatTensorType  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError([f"model.estimator: {MISSING_EXTRA}"], "model settings") from error
    kind = type(model.fitted).__name__
    try:
        made = convert_sklearn(
            model.fitted,
            name=kind,
            initial_types=[(_PREPARED, FloatTensorType([None, len(model.low)]))],
            options={"zipmap": False},
            target_opset=opset,
        )
    except Exception as error:  # the converter raises what it likes
        told = (str(error).strip().splitlines() or [""])[0]
        message = f"skl2onnx cannot convert {kind} ({type(error).__name__}: {told}); the estimator cannot be served"
        raise ArtefactRefused(message) from error
    return list(made.graph.node), list(made.graph.initializer), made.graph.output[1].name


def _needed(nodes: list[NodeProto], output: str) -> list[NodeProto]:
    """The nodes that the output depends on, in order: predicted labels are nobody's question."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]
