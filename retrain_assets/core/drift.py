"""Whether the tasks of today still look like the rows that taught the model: features one by one, and in total.

Holds the comparison of two samples with its limits, the Kolmogorov-Smirnov distance and the total; does not hold the
summary of a sample (`core/drift_profile.py`), bins and the population stability index (`core/drift_bins.py`), or
success rates and the mix of actions (`core/drift_labels.py`); their public names can be imported from here too.

Drift is a reason to look, not proof of harm: whether a model got worse is for outcomes to say. And two samples of the
same tasks never look alike: without any drift PSI is about (bins - 1) (1/n + 1/m), which is 0.6 for ten bins and 30
tasks on both sides. So nothing counts as drifted before it is above the limit AND above what chance gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from retrain_assets.core.drift_bins import category_bins, number_bins, psi, psi_noise, psi_scale
from retrain_assets.core.drift_labels import LabelDrift, RateChange, label_drift
from retrain_assets.core.drift_profile import (
    NUMERIC,
    CategoryProfile,
    NumberProfile,
    Profile,
    Sample,
    profile,
    read_sample,
)
from retrain_assets.core.features import Feature, FeatureSchema

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "DriftLevel",
    "DriftLimits",
    "DriftTotal",
    "FeatureDrift",
    "LabelDrift",
    "Profile",
    "RateChange",
    "drift",
    "label_drift",
    "profile",
    "psi",
    "psi_noise",
    "total_drift",
]

SHOWN_CATEGORIES = 20


class DriftLevel(StrEnum):
    """How far a feature has moved."""

    NONE = "none"
    NOTICE = "notice"
    DRIFT = "drift"
    NOT_COMPARED = "not_compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLimits:
    """From where on a difference is told.

    Attributes
    ----------
    psi_notice, psi_drift : float, default 0.1 and 0.25
        The customary limits of credit scoring (Lewis 1994, An Introduction to Credit Scoring; Siddiqi 2006, Credit
        Risk Scorecards). A convention, not a test: hence the noise level beside them.
    ks : float, default 0.1
        Somewhere at least 10 % of the rows have moved across one value.
    noise_quantile : float, default 0.95
        A feature without drift exceeds its noise level with probability 1 minus this.

    Raises
    ------
    ValueError
        Naming the field that is out of range.
    """

    psi_notice: float = 0.1
    psi_drift: float = 0.25
    ks: float = 0.1
    noise_quantile: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.psi_notice <= self.psi_drift:
            raise ValueError(f"psi_notice must lie between 0 and psi_drift ({self.psi_drift}), got {self.psi_notice}")
        if not 0 <= self.ks <= 1:
            raise ValueError(f"ks must lie between 0 and 1, got {self.ks}")
        if not 0 < self.noise_quantile < 1:
            raise ValueError(f"noise_quantile must lie between 0 and 1, got {self.noise_quantile}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDrift:
    """One feature of two samples. What could not be measured is None, and `note` says why.

    Attributes
    ----------
    name : str
    level : DriftLevel
        By PSI: above a limit and above `psi_noise`.
    psi : float or None
    psi_noise : float or None
        What PSI stays below without drift, with the probability `DriftLimits.noise_quantile`.
    psi_p_value : float or None
        Probability of such a PSI without drift (chi-square approximation).
    ks : float or None
        Largest distance of the two distributions' curves, numbers only; from a profile at most 0.005 too small
        when the present rows are at hand, and between 0.0075 too small and 0.0025 too large between two profiles.
    ks_p_value : float or None
        Two-sided. With many rows it is small for differences that matter to nobody: judge by `ks` and `ks_limit`.
    ks_limit : float or None
        The larger of `DriftLimits.ks` and what chance stays below with `noise_quantile`.
    rows_before, rows_after : int
    missing_share_before, missing_share_after : float or None
    new_categories : tuple of str
        Seen now and not among those the reference kept; the most frequent twenty.
    new_share : float or None
        Share of the present values that lie in such categories. None for numbers.
    note : str
    """

    name: str
    level: DriftLevel = DriftLevel.NOT_COMPARED
    psi: float | None = None
    psi_noise: float | None = None
    psi_p_value: float | None = None
    ks: float | None = None
    ks_p_value: float | None = None
    ks_limit: float | None = None
    rows_before: int = 0
    rows_after: int = 0
    missing_share_before: float | None = None
    missing_share_after: float | None = None
    new_categories: tuple[str, ...] = ()
    new_share: float | None = None
    note: str = ""

    @property
    def is_drifted(self) -> bool:
        """PSI above both the limit of drift and the noise."""
        return self.level is DriftLevel.DRIFT

    @property
    def is_ks_above_limit(self) -> bool:
        """A second opinion on numbers that does not depend on bins."""
        return self.ks is not None and self.ks_limit is not None and self.ks > self.ks_limit

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return {**asdict(self), "is_drifted": self.is_drifted, "is_ks_above_limit": self.is_ks_above_limit}


@dataclass(frozen=True, slots=True)
class DriftTotal:
    """All features together.

    Attributes
    ----------
    compared : int
        Features with a PSI.
    drifted, noticed : tuple of str
        Names, largest PSI first; a drifted one is not noticed as well.
    psi_mean : float or None
    worst : str or None
        The feature of the largest PSI.
    is_drifted : bool
        Some feature is drifted with a p-value below (1 - noise quantile) / compared (Bonferroni): without drift that
        happens with at most the probability of one feature's false alarm, however many features there are.
    """

    compared: int
    drifted: tuple[str, ...]
    noticed: tuple[str, ...]
    psi_mean: float | None
    worst: str | None
    is_drifted: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-able."""
        return asdict(self)


def drift(
    reference: Profile, present: Profile | pd.DataFrame, schema: FeatureSchema, limits: DriftLimits | None = None
) -> tuple[FeatureDrift, ...]:
    """Compare every feature of two samples: those of the schema in its order, then those that are gone from it.

    Bins: for numbers the deciles of the reference, where a value that holds a tenth of the rows has a bin of its own,
    apart from what lies just below and above it; for categories those with at least 1 % (and five) of both samples'
    rows, the other known ones together, and, with a reference of 100 rows or more, the unknown ones together. Missing
    is a bin.

    That new categories turn up is normal when there are many: their share in the reference is taken to be the share of
    its categories seen once (Good 1953), so that only more new ones than usual count as drift.

    Parameters
    ----------
    reference : Profile
        Of the rows that taught the production model.
    present : Profile or DataFrame
        The rows are compared exactly; a profile of them with the errors that `FeatureDrift.ks` states.
    schema : FeatureSchema
        Today's.
    limits : DriftLimits, optional

    Raises
    ------
    SchemaError
        Names the feature that holds a value of a wrong type.
    """
    limits = limits or DriftLimits()
    found = [_feature_drift(feature, reference, present, limits) for feature in schema.features]
    gone = [name for name in reference.features if schema.get(name) is None]
    rows = reference.rows
    return (*found, *(FeatureDrift(name=name, rows_before=rows, note="gone from the schema") for name in gone))


def total_drift(features: Iterable[FeatureDrift], limits: DriftLimits | None = None) -> DriftTotal:
    """Sum up `drift`; give it the same limits."""
    limits = limits or DriftLimits()
    compared = sorted((item for item in features if item.psi is not None), key=lambda item: -(item.psi or 0.0))
    if not compared:
        return DriftTotal(0, (), (), None, None, is_drifted=False)
    allowed = (1 - limits.noise_quantile) / len(compared)
    return DriftTotal(
        compared=len(compared),
        drifted=tuple(item.name for item in compared if item.is_drifted),
        noticed=tuple(item.name for item in compared if item.level is DriftLevel.NOTICE),
        psi_mean=float(np.mean([item.psi for item in compared])),
        worst=compared[0].name,
        is_drifted=any(item.is_drifted and (item.psi_p_value or 0.0) < allowed for item in compared),
    )


def _feature_drift(
    feature: Feature, reference: Profile, present: Profile | pd.DataFrame, limits: DriftLimits
) -> FeatureDrift:
    name, before = feature.name, reference.features.get(feature.name)
    after = present.features.get(name) if isinstance(present, Profile) else read_sample(present, feature)
    rows = (before.rows if before else 0, after.rows if after else 0)
    empty = FeatureDrift(name=name, rows_before=rows[0], rows_after=rows[1])
    if before is None or after is None:
        return replace(empty, note=f"the {'reference' if before is None else 'present profile'} does not have it")
    kinds = {reference.types[name], feature.type} | ({present.types[name]} if isinstance(present, Profile) else set())
    if len(kinds) > 1 and not kinds <= NUMERIC:
        return replace(empty, note=f"changed from {reference.types[name]} to {feature.type}")
    if not all(rows):
        return replace(empty, note=f"no rows in the {'present' if rows[0] else 'reference'}")
    if isinstance(before, CategoryProfile) and isinstance(after, CategoryProfile):
        return _judged(empty, before, after, category_bins(before, after), limits)
    if isinstance(before, NumberProfile) and not isinstance(after, CategoryProfile):
        return _judged(empty, before, after, number_bins(before, after), limits)
    raise ValueError(f"the profile of {name} does not hold what its type says")


def _judged(
    item: FeatureDrift,
    before: Sample,
    after: Sample,
    bins: tuple[np.ndarray, np.ndarray],
    limits: DriftLimits,
) -> FeatureDrift:
    from scipy.special import chdtrc

    value, noise = psi(*bins), psi_noise(*bins, limits.noise_quantile)
    freedom, unit = psi_scale(*bins)
    level = DriftLevel.NONE
    if value > max(limits.psi_notice, noise):
        level = DriftLevel.DRIFT if value > limits.psi_drift else DriftLevel.NOTICE
    new_names, new_share = _new_categories(before, after)
    ks, ks_p_value, ks_limit = _kolmogorov_smirnov(before, after, limits)
    return FeatureDrift(
        name=item.name,
        level=level,
        psi=value,
        psi_noise=noise,
        psi_p_value=float(chdtrc(freedom, value / unit)) if freedom else 1.0,
        ks=ks,
        ks_p_value=ks_p_value,
        ks_limit=ks_limit,
        rows_before=before.rows,
        rows_after=after.rows,
        missing_share_before=before.missing / before.rows,
        missing_share_after=after.missing / after.rows,
        new_categories=new_names,
        new_share=new_share,
    )


def _new_categories(before: Sample, after: Sample) -> tuple[tuple[str, ...], float | None]:
    if not isinstance(before, CategoryProfile) or not isinstance(after, CategoryProfile):
        return (), None
    known = {name for name, _ in before.counts}
    new = [(name, count) for name, count in after.counts if name not in known]
    share = (after.beyond + sum(count for _, count in new)) / after.present if after.present else None
    return tuple(name for name, _ in new[:SHOWN_CATEGORIES]), share


def _kolmogorov_smirnov(
    before: Sample, after: Sample, limits: DriftLimits
) -> tuple[float | None, float | None, float | None]:
    """Statistic, two-sided p-value and limit; None for categories and without values.

    The distribution is Smirnov's (1948) with Stephens's (1970) correction for few rows; ties make it cautious.
    """
    if isinstance(before, CategoryProfile) or isinstance(after, CategoryProfile):
        return None, None, None
    if not before.present or not after.present or not isinstance(before, NumberProfile):
        return None, None, None
    from scipy.special import kolmogi, kolmogorov

    theirs = after.count_at(np.asarray(before.points))
    gaps = (np.abs(np.asarray(ours) / before.present - counts / after.present)
            for ours, counts in zip((before.below, before.up_to), theirs, strict=True))  # fmt: skip
    statistic = float(max(gap.max() for gap in gaps))
    root = math.sqrt(before.present * after.present / (before.present + after.present))
    scale = root + 0.12 + 0.11 / root
    chance = float(kolmogi(1 - limits.noise_quantile)) / scale
    return statistic, float(kolmogorov(scale * statistic)), min(1.0, max(limits.ks, chance))
