"""A fitted model as a notebook holds it: its tables, and its figures when they are asked for."""

from typing import TYPE_CHECKING

from cohort.stats.analysis import Analysis
from cohort.stats.columns import DesignError, unknown_column

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = ("forest", "means", "ladder", "adjustments", "added_variable", "residuals", "design")


class Fitted(Analysis):
    """An `Analysis` that draws itself."""

    def figure(self, kind: str = "forest", *, term: str | None = None) -> "Figure":
        """Draw the model.

        Parameters
        ----------
        kind : {"forest", "means", "ladder", "adjustments", "added_variable", "residuals", "design"}
            Partial correlations of all terms; adjusted means of the groups; the group's effect with one more term a
            step; under every way to account for head size; outcome against one term, both freed from the others;
            studentised residuals in three ways; the design matrix.
        term : str, optional
            Of ``added_variable``; without it the first term that is no confound.

        Returns
        -------
        Figure

        Raises
        ------
        DesignError
            If the model has no such figure, with the reason.
        """
        from cohort.reporting import modelplots, plots, residualplots

        unit = str((self.model.get("units") or {}).get(str(self.design.y.name), ""))
        if kind == "forest" and "partial_r" in self.tidy:
            return modelplots.forest(self.tidy, outcome=str(self.design.y.name))
        if kind == "added_variable" and self.hc3_covariance is not None:
            from cohort.stats.regression import Fit, added_variable

            assert isinstance(self.fit, Fit)
            name = term or str(self.fit.tidy.sort_values("role", key=_rank)["term"].iloc[0])
            points = added_variable(self.fit, name)
            return plots.added_variable(
                points["x_resid"],
                points["y_resid"],
                term=name,
                outcome=str(self.design.y.name),
                unit=unit,
            )
        if kind == "residuals" and "rstudent" in self.augment:
            return residualplots.residuals(self.augment)
        if kind == "design":
            return residualplots.design(self.design.X)
        drawn = {
            "means": modelplots.means,
            "ladder": modelplots.ladder,
            "adjustments": modelplots.adjustments,
        }
        if kind in drawn and kind in self.tables:
            return drawn[kind](self.tables[kind])
        if kind not in KINDS:
            raise DesignError(unknown_column(kind, KINDS, "figure").replace("column", "figure"))
        why = self.left_out.get(kind, "the model has no such table")
        raise DesignError(f"figure {kind!r}: {why}")


def _rank(roles: "pd.Series") -> "pd.Series":
    order = ("group", "interaction", "covariate", "confound", "intercept")
    return roles.map({role: place for place, role in enumerate(order)})
