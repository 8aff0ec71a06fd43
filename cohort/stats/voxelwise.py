"""A regression in every voxel of a cohort: one read of the cube gives the maps, arrangements of the scans their p."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cohort.io.cube import Cube
from cohort.kernels import glm
from cohort.stats import multiplicity
from cohort.stats.columns import DesignError
from cohort.stats.exchanges.scheme import Permutations
from cohort.stats.voxels import peaks
from cohort.stats.voxels.arrangements import CONNECTIVITY, Arranged, Asked, arranged
from cohort.stats.voxels.pieces import Piece, Question, each, fit_piece, joined

REVISION = 7
"""Raised when the same scans and model give other numbers."""

FORMING = 1e-3
"""p (two-sided) of the t above which voxels form clusters, where the model states none."""

WHY = {
    glm.NO_SCAN: "no scan has a number there",
    glm.FEW_SCANS: "too few scans have a number there for the terms of the model",
    glm.ALIKE: "the scans that have a number there do not tell the terms apart",
    glm.CONSTANT: "the value is the same in all scans",
    glm.EXPLAINED: "the terms explain the value to the last digit",
}
"""What is said of voxels that are left out, by their state."""


@dataclass(frozen=True)
class Maps:
    """The maps of a model.

    Attributes
    ----------
    names, groups : tuple of str
        Contrasts, and groups of contrasts that were tested together.
    shape : (z, y, x)
    voxels : (v,) int64
        Flat indices of the fitted voxels, rising.
    by_contrast : dict of name -> (k, v) float64
        beta, se, t, p, q, hc3_t, hc3_p, partial_r, d; with permutations p_permuted, fwe_p, and support and support_p (NaN
        where a scan lacks the voxel).
    by_group : dict of name -> (m, v) float64
        F, F_p, F_q.
    by_voxel : dict of name -> (v,) array
        mean, sigma, n, dof.
    arranged : dict of contrast -> Arranged
    n_grid, n_mask : int
        Voxels of the grid, and of the mask.
    left_out : dict of reason -> voxels
    empty : tuple of int
        Rows of the cube without a number in the mask, which are left out.
    threshold : float
        Value of t above which voxels form clusters.
    complete : (v,) bool or None
        Voxels that every scan has, which `arranged` is about.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    shape: tuple[int, int, int]
    voxels: np.ndarray
    by_contrast: dict[str, np.ndarray]
    by_group: dict[str, np.ndarray]
    by_voxel: dict[str, np.ndarray]
    n_grid: int
    n_mask: int
    left_out: dict[str, int]
    empty: tuple[int, ...] = ()
    threshold: float = float("nan")
    neighbours: int = 6
    arranged: dict[str, Arranged] = field(default_factory=dict)
    complete: np.ndarray | None = None

    def volume(self, values: np.ndarray, fill: float = np.nan) -> np.ndarray:
        """Lay numbers of the fitted voxels out in space, (z, y, x)."""
        out = np.full(int(np.prod(self.shape)), fill, values.dtype)
        out[self.voxels] = values
        return out.reshape(self.shape)

    def peaks(self, affine: np.ndarray) -> pd.DataFrame:
        """Clusters and peaks of all contrasts; see `cohort.stats.voxels.peaks.table`."""
        told = ("t", "beta", "p", "q", "hc3_t", "fwe_p", "support_p")
        parts = []
        for i, name in enumerate(self.names):
            maps = {k: self.volume(self.by_contrast[k][i]) for k in told if k in self.by_contrast}
            heights = maps["t"]
            if name in self.arranged and self.complete is not None:
                # The very numbers of the first arrangement, with which clusters are compared.
                exact = np.full(len(self.voxels), np.nan, np.float32)
                exact[self.complete] = self.arranged[name].t
                heights = self.volume(exact)
            parts.append(
                peaks.table(
                    name,
                    maps,
                    heights=heights,
                    affine=affine,
                    threshold=self.threshold,
                    neighbours=self.neighbours,
                    arranged=self.arranged.get(name),
                )
            )
        full = [part for part in parts if len(part)]
        return pd.concat(full, ignore_index=True) if full else parts[0]


def fit(
    cube: Cube,
    X: np.ndarray,
    contrasts: Mapping[str, np.ndarray],
    *,
    joint: Mapping[str, np.ndarray] | None = None,
    mask: np.ndarray | None = None,
    above: float | None = None,
    share: float = 1.0,
    permutations: Permutations | None = None,
    threshold: float | None = None,
    tfce: bool = False,
    neighbours: int = 6,
    voxel_mm3: float = 1.0,
    workers: int = 2,
    client: Any = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Maps:
    """Fit a model in every voxel.

    Parameters
    ----------
    cube : Cube
        A row a scan.
    X : (n, p) float64
        In the rows' order.
    contrasts : mapping of name -> (p,) float64
    joint : mapping of name -> (q, p) float64
    mask : (z, y, x) bool, optional
    above, share
        A voxel counts if at least this share of the scans, above 0 and up to 1, exceeds `above` there.
    permutations : Permutations, optional
        p by exchanging scans, of each contrast, two-sided, corrected for all voxels that every scan has.
    threshold : float, optional
        Value of t, 0 or more, above which voxels form clusters; with permutations they get p of extent and mass. Without it clusters are
        listed above the t of p = `FORMING`, without p.
    tfce : bool
        With permutations: threshold-free cluster enhancement, E = 0.5, H = 2.
    neighbours : {6, 18, 26}
    client : distributed.Client, optional
        Pieces are computed by its workers, which must see the place of the cube; by threads without.

    Returns
    -------
    Maps

    Raises
    ------
    DesignError
        If the columns of X depend on each other, no voxel is left, or scans cannot be exchanged; if an argument has another
        shape than the cube or X ask for, or a value that it cannot have.

    Notes
    -----
    Numbers have the same bits for any cut of the cube and any number of workers. Memory: pieces at work times their
    bytes, and those compressed; the maps; for clusters and support `arrangements.MAP_BYTES`, or the maps of 64 arrangements.
    """
    X = np.asarray(X, np.float64)
    _check_design(X, len(cube.scans), contrasts, joint or {})
    _check_asked(cube, mask, share, permutations, threshold, neighbours)
    question = Question(
        X=X,
        rows=np.arange(len(X)),
        contrasts=np.stack([np.asarray(c, np.float64) for c in contrasts.values()]),
        joint=tuple(np.asarray(C, np.float64) for C in (joint or {}).values()),
        above=above,
        share=share,
    )
    try:
        pieces = _fitted(cube, question, mask, workers, client, progress)
        # A mask of what the scans exceed may be another without those that hold nothing.
        while (used := _holding(pieces)).any() and not used.all():
            question = replace(question, X=question.X[used], rows=question.rows[used])
            pieces = _fitted(cube, question, mask, workers, client, progress)
    except glm.DependentColumns as error:
        raise DesignError(f"the design of the maps: {error}") from error
    empty = np.setdiff1d(np.arange(len(X)), question.rows)
    maps = as_maps(
        cube.shape, question, pieces, tuple(contrasts), tuple(joint or {}), tuple(empty.tolist())
    )
    df = question.X.shape[0] - question.X.shape[1]
    maps = replace(
        maps, threshold=forming(df) if threshold is None else threshold, neighbours=neighbours
    )
    if permutations is None:
        return maps
    n = len(question.X)
    complete = maps.by_voxel["n"] == n
    found: dict[str, Arranged] = {}
    for name, contrast in zip(maps.names, question.contrasts, strict=True):
        plan = permutations.of(question.X, contrast, rows=question.rows, name=name)
        found[name] = arranged(
            cube,
            question,
            plan,
            maps.voxels[complete],
            Asked(threshold, tfce, neighbours, voxel_mm3, permutations.tail),
            workers=workers,
            client=client,
            progress=partial(progress, name),
        )
    return _with_arranged(maps, found, complete)


def _check_design(
    X: np.ndarray,
    n: int,
    contrasts: Mapping[str, np.ndarray],
    joint: Mapping[str, np.ndarray],
) -> None:
    """Raise `DesignError` unless X has a row for each of `n` scans, and weights one for each of its columns."""
    if X.ndim != 2 or len(X) != n:
        raise DesignError(f"X: expected (n, p) with the {n} rows of the cube, found {X.shape}")
    if not (finite := np.isfinite(X)).all():
        row, column = np.argwhere(~finite)[0]
        raise DesignError(
            f"X: expected finite numbers, found {X[row, column]} in row {row}, column {column}; leave such scans out"
        )
    if not contrasts:
        raise DesignError("contrasts: expected one or more, found none")
    p = X.shape[1]
    for what, dims, several in (("contrast", 1, contrasts), ("joint", 2, joint)):
        for name, weights in several.items():
            C = np.asarray(weights, np.float64)
            if C.ndim != dims or C.shape[-1] != p:
                wanted = f"({p},)" if dims == 1 else f"(q, {p})"
                raise DesignError(
                    f"{what} {name!r}: expected {wanted} numbers for the {p} columns of X, found {C.shape}"
                )
            if not np.isfinite(C).all() or not C.any():
                raise DesignError(
                    f"{what} {name!r}: expected finite weights of which one is not 0, found {C.tolist()}"
                )


def _check_asked(
    cube: Cube,
    mask: np.ndarray | None,
    share: float,
    permutations: Permutations | None,
    threshold: float | None,
    neighbours: int,
) -> None:
    """Raise `DesignError` for what fits neither the cube nor anything."""
    if mask is not None and np.shape(mask) != cube.shape:
        raise DesignError(
            f"mask: expected the {cube.shape} voxels of the cube, found {np.shape(mask)}"
        )
    if not 0 < share <= 1:
        raise DesignError(f"share: expected above 0, up to 1, found {share}")
    if threshold is not None and not 0 <= threshold < np.inf:
        raise DesignError(f"threshold: expected a t of 0 or more, found {threshold}")
    if neighbours not in CONNECTIVITY:
        raise DesignError(
            f"neighbours: expected {', '.join(map(str, CONNECTIVITY))}, found {neighbours}"
        )
    blocks = None if permutations is None else permutations.blocks
    if blocks is not None and np.shape(blocks) != (len(cube.scans),):
        raise DesignError(
            f"blocks: expected one for each of {len(cube.scans)} scans, found {np.shape(blocks)}"
        )


def _fitted(
    cube: Cube,
    question: Question,
    mask: np.ndarray | None,
    workers: int,
    client: Any,
    progress: Callable[[str, int, int], None],
) -> list[Piece]:
    tiles = cube.tiles()
    items = [(tile, None if mask is None else mask[tile]) for tile in tiles]
    pieces = []
    for piece in each(partial(fit_piece, cube, question), items, workers=workers, client=client):
        pieces.append(piece)
        progress("maps", len(pieces), len(tiles))
    return pieces


def _holding(pieces: list[Piece]) -> np.ndarray:
    """Which rows hold a number in the mask; if the mask is empty, anywhere that it may be."""
    seen = np.sum([piece.seen for piece in pieces], axis=0)
    held = np.sum([piece.held for piece in pieces], axis=0)
    return np.asarray((seen if seen.any() else held) > 0)


def as_maps(
    shape: tuple[int, int, int],
    question: Question,
    pieces: list[Piece],
    names: tuple[str, ...],
    groups: tuple[str, ...],
    empty: tuple[int, ...],
) -> Maps:
    """Maps of all pieces of a volume; they are emptied. Raises `DesignError` without a voxel."""
    n_mask = sum(piece.inside for piece in pieces)
    n_grid = int(np.prod(shape))
    if not n_mask:
        rule = ""
        if question.above is not None:
            rule = f" ({question.share:.0%} of {len(question.X)} scans above {question.above:g})"
        raise DesignError(f"the mask has no voxel: expected some of {n_grid}, found none{rule}")
    counts = np.sum([piece.counts for piece in pieces], axis=0)
    left_out = {WHY[state]: int(counts[state]) for state in WHY if counts[state]}
    voxels = np.concatenate([piece.voxels for piece in pieces])
    if not len(voxels):
        said = "; ".join(f"{n}: {why}" for why, n in left_out.items())
        raise DesignError(f"none of the {n_mask} voxels of the mask can be fitted: {said}")
    found = joined([piece.fits for piece in pieces], len(names), len(groups))
    pieces.clear()  # what they held is held once more by now
    df = found.df.astype(np.float64)
    by_contrast = {
        "beta": found.estimate,
        "se": found.se,
        "t": found.t,
        "p": found.p,
        "q": np.stack([multiplicity.adjust(row, "bh") for row in found.p]),
        "hc3_t": found.hc3_t,
        "hc3_p": found.hc3_p,
        "partial_r": found.t / np.sqrt(np.square(found.t) + df),
        "d": found.estimate / found.sigma,
    }
    by_group = {}
    if groups:
        together = np.stack([multiplicity.adjust(row, "bh") for row in found.F_p])
        by_group = {"F": found.F, "F_p": found.F_p, "F_q": together}
    return Maps(
        names=names,
        groups=groups,
        shape=shape,
        voxels=voxels,
        by_contrast=by_contrast,
        by_group=by_group,
        by_voxel={"mean": found.mean, "sigma": found.sigma, "n": found.n, "dof": found.df},
        n_grid=n_grid,
        n_mask=n_mask,
        left_out=left_out,
        empty=empty,
    )


def _with_arranged(maps: Maps, found: dict[str, Arranged], complete: np.ndarray) -> Maps:
    def spread(name: str) -> np.ndarray:
        out = np.full((len(maps.names), len(maps.voxels)), np.nan)
        for row, one in zip(out, found.values(), strict=True):
            row[complete] = getattr(one, name)
        return out

    more = {"p_permuted": spread("p"), "fwe_p": spread("fwe_p")}
    if all(one.support is not None for one in found.values()):
        more |= {"support": spread("support"), "support_p": spread("support_p")}
    return replace(
        maps, by_contrast={**maps.by_contrast, **more}, arranged=found, complete=complete
    )


def forming(df: int) -> float:
    """Value of t above which voxels form clusters, where the model states none."""
    from scipy import special

    return float(special.stdtrit(df, 1 - FORMING / 2))
