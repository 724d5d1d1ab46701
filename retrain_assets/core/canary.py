"""The canary rule: evidence per block, verdicts, the plan, the buffer of blocks, the watch on production.

The public face of the rule; read in this order:

- `canary_policy`: the metrics, `CanaryPolicy`.
- `canary_evidence`: `Cell`, `Evidence`, the e-processes.
- `canary_blocks`: `MaturedTask`, `BlockBuffer`, which closes blocks on labels alone.
- `canary_context`: `Context`, `VerdictKind`, `Verdict`.
- `canary_latency`: `LatencyReference`, which grades decisions for the latency metrics.
- `canary_verdict`: `judge(evidence, policy, context) -> Verdict`, and `weigh`, which does it block by block.
- `canary_case`: the numbers and the words of a verdict, `describe`.
- `canary_plan`: `plan(...) -> CanaryPlan`, what a canary can show before it starts.
- `canary_detector`: `LimitDetector`, production's limits without a holdback.
- `canary_math`: bounds and tail probabilities.

Holds names only. All of it is values in, values out: no clock, no disk, no database, standard library alone.

    buffer, blocks = buffer.add(matured_tasks)
    evidence, verdict = weigh(evidence, blocks, policy, context)

`weigh` gives each block to `Evidence.update` on its own and stops at the block that proves harm, so that neither
evidence nor rollback depends on how reads were batched.
"""

from retrain_assets.core.canary_blocks import BlockBuffer, MaturedTask
from retrain_assets.core.canary_case import describe, weak_sentence
from retrain_assets.core.canary_context import Context, Verdict, VerdictKind
from retrain_assets.core.canary_detector import LimitDetector
from retrain_assets.core.canary_evidence import Cell, Counts, Evidence
from retrain_assets.core.canary_latency import LatencyReference
from retrain_assets.core.canary_plan import CanaryPlan, plan, seen_drop
from retrain_assets.core.canary_policy import LIMIT_METRICS, METRICS, RELATIVE_WEIGHTS, CanaryPolicy, EvidenceKind
from retrain_assets.core.canary_verdict import judge, weigh

__all__ = [
    "LIMIT_METRICS",
    "METRICS",
    "RELATIVE_WEIGHTS",
    "BlockBuffer",
    "CanaryPlan",
    "CanaryPolicy",
    "Cell",
    "Context",
    "Counts",
    "Evidence",
    "EvidenceKind",
    "LatencyReference",
    "LimitDetector",
    "MaturedTask",
    "Verdict",
    "VerdictKind",
    "describe",
    "judge",
    "plan",
    "seen_drop",
    "weak_sentence",
    "weigh",
]
