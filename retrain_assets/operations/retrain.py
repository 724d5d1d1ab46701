"""The weekly loop, a function per step: collect, merge, prepare, train, register, validate, stage, start.

The public face of the steps, which lie in `dataset` (up to the split), `model` (up to the registered version) and
`report` (up to the trial). Every step reads what the one before left in the store, by week, so that any of them can be
run again alone. Holds names only.
"""

from retrain_assets.operations.dataset import Prepared, collect, merge, newer_snapshots, newest_dataset, prepare
from retrain_assets.operations.model import Training, code_version, library_versions, newest_version, register, train
from retrain_assets.operations.report import Staged, smoke_test, stage, start_canary, validate, why_not_deployed
from retrain_assets.operations.runs import Held, Run, fail, is_old

__all__ = [
    "Held",
    "Prepared",
    "Run",
    "Staged",
    "Training",
    "code_version",
    "collect",
    "fail",
    "is_old",
    "library_versions",
    "merge",
    "newer_snapshots",
    "newest_dataset",
    "newest_version",
    "prepare",
    "register",
    "smoke_test",
    "stage",
    "start_canary",
    "train",
    "validate",
    "why_not_deployed",
]
