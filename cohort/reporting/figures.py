"""Figures: each a function from data to a matplotlib Figure, for a notebook as for the report.

Figures are made without pyplot, so nothing global is touched and nothing has to be closed. Colours are told apart by the
colour-blind, axes carry units, and slices the letters of the directions (R, L, A, P, S, I).

- of images: `show`, `planes`, `montage`, `overlay`, `difference`, `distance_map`, `contact_sheet`, `histogram`, `joint_histogram`,
  `volume_curve`;
- of a cohort: `distribution`, `box_by_group`, `flow`;
- of models: `forest`, `partial_correlations`, `added_variable`, `adjusted_means`, `ladder`, `adjustments`, `qq`, `leverage`,
  `residuals`, `design`, `agreement`.
"""

from cohort.reporting.agreementplots import agreement
from cohort.reporting.flowplot import flow
from cohort.reporting.imageplots import histogram, joint_histogram, volume_curve
from cohort.reporting.modelplots import adjustments, ladder
from cohort.reporting.modelplots import forest as partial_correlations
from cohort.reporting.modelplots import means as adjusted_means
from cohort.reporting.plots import added_variable, box_by_group, distribution, forest
from cohort.reporting.residualplots import design, leverage, qq, residuals
from cohort.reporting.showing import show
from cohort.reporting.sliceplots import (
    contact_sheet,
    difference,
    distance_map,
    montage,
    overlay,
    planes,
)

__all__ = [
    "added_variable",
    "adjusted_means",
    "adjustments",
    "agreement",
    "box_by_group",
    "contact_sheet",
    "design",
    "difference",
    "distance_map",
    "distribution",
    "flow",
    "forest",
    "histogram",
    "joint_histogram",
    "ladder",
    "leverage",
    "montage",
    "overlay",
    "partial_correlations",
    "planes",
    "qq",
    "residuals",
    "show",
    "volume_curve",
]
