"""What a person sees of a search for parameters in the Dagster UI.

Holds that translation; does not hold the rest of a training's metadata (`defs/metadata.py`) or the search
(`core/search.py`).
"""

from __future__ import annotations

import json
from typing import Any

import dagster as dg

from retrain_assets.operations.retrain import Training

DIGITS = 4


def of_search(training: Training) -> dict[str, Any]:
    """Every trial and why one of them was taken; nothing when parameters were not searched."""
    if (reason := training.metrics.get("search_reason")) is not None:
        return {"search": f"not searched: {reason}"}
    found = training.metrics.get("search")
    if found is None:
        return {}
    columns = [
        dg.TableColumn("trial", "int"),
        dg.TableColumn("params"),
        dg.TableColumn("log_loss", "float"),
        dg.TableColumn("saving", "float"),
        dg.TableColumn("saving_error", "float"),
        dg.TableColumn("chosen"),
        dg.TableColumn("fault"),
    ]
    records = [
        dg.TableRecord(
            {
                "trial": trial["number"],
                "params": json.dumps(trial["params"], sort_keys=True),
                **{name: _rounded(trial[name]) for name in ("log_loss", "saving", "saving_error")},
                "chosen": "yes" if trial["number"] == found["chosen"] else "",
                "fault": trial["fault"],
            }
        )
        for trial in found["trials"]
    ]
    return {
        "search": found["reason"],
        "search_trials": dg.MetadataValue.table(records, schema=dg.TableSchema(columns)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
