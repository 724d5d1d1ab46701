"""How outcomes and the choice of actions moved between two samples.

Holds success rates per action and overall with the interval of their difference, and the shift of the mix of actions;
does not hold features (`core/drift.py`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain_assets.core.canary_math import wilson_bounds
from retrain_assets.core.drift_profile import ActionCount, Profile, count_actions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class RateChange:
    """The success rate of one action, or of all, before and after.

    Attributes
    ----------
    name : str
        The action; "overall" for all.
    rows_before, rows_after : int
    before, after : float or None
        None without rows.
    difference, low, high : float or None
        After minus before with its interval (Newcombe 1998, method 10: Wilson's intervals joined); None when one
        side has no rows.
    """

    name: str
    rows_before: int
    rows_after: int
    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None

    @property
    def is_shown(self) -> bool:
        """The interval leaves out zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class LabelDrift:
    """How the outcomes and the choice of actions moved.

    Attributes
    ----------
    overall : RateChange
    by_action : tuple of RateChange
        By name.
    mix_distance : float or None
        Total variation distance of the two mixes of actions: the share of rows that would have to change their action
        to make them equal. None when one side has no rows.
    mix_noise : float or None
        A bound that the distance stays below without a shift with the given confidence:
        sqrt(chi-square quantile (actions - 1) (1/n + 1/m)) / 2, by Cauchy and Schwarz from Pearson's statistic.
    """

    overall: RateChange
    by_action: tuple[RateChange, ...]
    mix_distance: float | None
    mix_noise: float | None

    @property
    def is_mix_shifted(self) -> bool:
        """The mix moved by more than chance explains."""
        return self.mix_distance is not None and self.mix_noise is not None and self.mix_distance > self.mix_noise

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {**asdict(self), "is_mix_shifted": self.is_mix_shifted}


def label_drift(reference: Profile, present: Profile | pd.DataFrame, confidence: float = 0.95) -> LabelDrift:
    """Compare success rates and the mix of actions.

    The overall rate moves with the mix too: read it together with the rates of the actions.

    Parameters
    ----------
    reference : Profile
    present : Profile or DataFrame
        Rows need `action` and `result`.
    confidence : float, default 0.95
        Of every interval by itself, two-sided, and of `mix_noise`.
    """
    then = {item.action: item for item in reference.actions}
    counted = present.actions if isinstance(present, Profile) else count_actions(present)
    now = {item.action: item for item in counted}
    names = sorted({*then, *now})
    pairs = [(then.get(name, ActionCount(name, 0, 0)), now.get(name, ActionCount(name, 0, 0))) for name in names]
    sums = [ActionCount("overall", sum(item.rows for item in side.values()), sum(s.successes for s in side.values()))
            for side in (then, now)]  # fmt: skip
    distance, noise = _mix_shift(pairs, confidence)
    return LabelDrift(
        overall=_rate_change("overall", sums[0], sums[1], confidence),
        by_action=tuple(_rate_change(old.action, old, new, confidence) for old, new in pairs),
        mix_distance=distance,
        mix_noise=noise,
    )


def _rate_change(name: str, old: ActionCount, new: ActionCount, confidence: float) -> RateChange:
    before, after = (item.successes / item.rows if item.rows else None for item in (old, new))
    if before is None or after is None:
        return RateChange(name, old.rows, new.rows, before, after, None, None, None)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    old_low, old_high = wilson_bounds(old.rows, old.successes, z)
    new_low, new_high = wilson_bounds(new.rows, new.successes, z)
    change = after - before
    low = change - math.hypot(after - new_low, old_high - before)
    high = change + math.hypot(new_high - after, before - old_low)
    return RateChange(name, old.rows, new.rows, before, after, change, low, high)


def _mix_shift(pairs: list[tuple[ActionCount, ActionCount]], confidence: float) -> tuple[float | None, float | None]:
    from scipy.special import chdtri

    old, new = (np.array([pair[side].rows for pair in pairs], dtype=float) for side in (0, 1))
    n, m = old.sum(), new.sum()
    if not n or not m:
        return None, None
    spread = chdtri(len(pairs) - 1, 1 - confidence) * (1 / n + 1 / m) if len(pairs) > 1 else 0.0
    return float(np.abs(old / n - new / m).sum() / 2), min(1.0, math.sqrt(spread) / 2)
