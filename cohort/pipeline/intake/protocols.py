"""Which scans were acquired alike, and which one strays from its kind.

Pure functions of what the store says of its scans: records, or rows of the scans table. Groups are made as CuBIDS makes
them: categories exactly, numbers within a tolerance around the most common one (Covitz et al. 2022, NeuroImage 263:119609).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort import grid

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES = (
    "modality",
    "kind",
    "manufacturer",
    "manufacturer_model",
    "field_strength_t",
    "scanning_sequence",
    "sequence_variant",
    "acquisition_type",
    "echo_number",
    "units",
    "photometric",
    "philips_precise",
    "leading",
    "slices_along",
    "matrix",
)
"""Parameters that must be equal, those that the records hold; the last three follow from the shape."""

NUMBERS = (
    "repetition_time_ms",
    "echo_time_ms",
    "inversion_time_ms",
    "flip_angle_deg",
    "slice_thickness_mm",
    "spacing_z_mm",
    "spacing_y_mm",
    "spacing_x_mm",
)
"""Parameters that must be equal within `TOLERANCE`."""

TERMS: Mapping[str, tuple[str, str]] = {
    "modality": ("modality", ""),
    "kind": ("file format", ""),
    "manufacturer": ("manufacturer", ""),
    "manufacturer_model": ("manufacturer's model name", ""),
    "field_strength_t": ("magnetic field strength", "T"),
    "scanning_sequence": ("scanning sequence", ""),
    "sequence_variant": ("sequence variant", ""),
    "acquisition_type": ("MR acquisition type", ""),
    "echo_number": ("echo number", ""),
    "units": ("unit of the voxels", ""),
    "photometric": ("photometric interpretation", ""),
    "philips_precise": ("Philips scaling", ""),
    "leading": ("dimensions besides space", ""),
    "slices_along": ("slice orientation", ""),
    "matrix": ("matrix size", ""),
    "repetition_time_ms": ("repetition time", "ms"),
    "echo_time_ms": ("echo time", "ms"),
    "inversion_time_ms": ("inversion time", "ms"),
    "flip_angle_deg": ("flip angle", "degrees"),
    "slice_thickness_mm": ("slice thickness", "mm"),
    "spacing_z_mm": ("voxel spacing along z", "mm"),
    "spacing_y_mm": ("voxel spacing along y", "mm"),
    "spacing_x_mm": ("voxel spacing along x", "mm"),
}
"""Each parameter as people call it (the attribute of DICOM where there is one), and its unit."""

_WORDS: Mapping[str, Mapping[str, str]] = {
    "kind": {"dicom": "DICOM", "nifti": "NIfTI"},
    "philips_precise": {"True": "precise values", "False": "displayed values"},
    "leading": {"": "none"},
    "slices_along": {"x": "sagittal", "y": "coronal", "z": "axial"},
}
"""Values of this room's own, as people call them."""

NOT_STATED = "not stated"

TOLERANCE = 0.01
"""Share of the most common value nearby."""

DOMINANT_SCANS = 5
DOMINANT_SHARE = 0.8
"""A protocol of so many scans, and of this share of those that resemble it, is the rule from which others drift."""

DRIFT_PARAMETERS = 3
"""Protocols that differ in more parameters are meant to differ."""

_CANDIDATES = 100
"""A rule has at least one in so many scans of its modality: bounds how many protocols are compared with all others."""


@dataclass(frozen=True)
class Protocols:
    """Groups of scans that were acquired alike."""

    scans: "pd.DataFrame"
    """Columns scan_id and protocol (int, 1 is the largest), in the order of the records."""
    classes: "pd.DataFrame"
    """One row a protocol: protocol, n (scans), then the parameters of `CATEGORIES` and `NUMBERS` that any record holds;
    of a number the most common value."""
    drifts: list[str]
    """One line for each scan that strays in a few parameters from a protocol that nearly all scans like it follow."""


def protocols(records: "pd.DataFrame | Iterable[Mapping[str, Any]]") -> Protocols:
    """Group scans by how they were acquired.

    Parameters
    ----------
    records : DataFrame or iterable of mapping
        Rows of the scans table, or records of the store. A parameter that is missing in a record is a value of its own.

    Returns
    -------
    Protocols
        The same whatever the order of the records. Matrix is the size within a slice: how many slices there are says
        nothing of the protocol. Slices are taken to lie along the axis whose spacing differs from the other two, of an
        isotropic image along the one whose size does, else along z.
    """
    import pandas as pd

    frame = _frame(records)
    categories = [c for c in CATEGORIES if c in frame]
    numbers = [c for c in NUMBERS if c in frame]
    kinds = _joint_codes([frame[c] for c in categories], len(frame))
    levels = frame[categories].assign(
        **{c: _levels(kinds, frame[c].to_numpy(float)) for c in numbers}
    )
    codes = _joint_codes([pd.Series(kinds), *(levels[c] for c in numbers)], len(frame))
    first = frame["scan_id"].astype(str).groupby(codes).min()
    n = np.bincount(codes, minlength=len(first)) if len(frame) else np.zeros(0, int)
    order = np.lexsort((first.to_numpy(object).astype(str), -n)) if len(n) else np.zeros(0, int)
    number = np.empty(len(order), int)
    number[order] = np.arange(1, len(order) + 1)
    scans = pd.DataFrame({"scan_id": frame["scan_id"], "protocol": number[codes]})
    classes = levels.assign(protocol=scans["protocol"], n=n[codes])
    classes = classes.drop_duplicates("protocol").sort_values("protocol", ignore_index=True)
    classes = classes[["protocol", "n", *categories, *numbers]]
    return Protocols(scans, classes, _drifts(frame, scans["protocol"].to_numpy(), classes))


def _frame(records: "pd.DataFrame | Iterable[Mapping[str, Any]]") -> "pd.DataFrame":
    """One row a scan: its id and the parameters that any record holds, numbers as float64, categories as text."""
    import pandas as pd

    if not isinstance(records, pd.DataFrame):
        records = pd.DataFrame([_row(record) for record in records])
    if not len(records):
        return pd.DataFrame({"scan_id": pd.Series(dtype=object)})
    frame = pd.DataFrame({"scan_id": records["scan_id"].to_numpy()})
    known = {c: records[c].to_numpy() for c in (*CATEGORIES, *NUMBERS) if c in records}
    for name in NUMBERS:
        if name in known:
            frame[name] = pd.to_numeric(pd.Series(known[name]), errors="coerce").astype(float)
    if "field_strength_t" in known:  # 1.494 and 1.5, 2.894 and 2.9 are the magnet's own numbers
        known["field_strength_t"] = np.round(known["field_strength_t"].astype(float), 1)
    shape = [f"shape_{d}" for d in "xyz"]
    if all(c in records for c in shape) and "spacing_x_mm" in frame:
        sizes = records[shape].to_numpy(int)
        steps = frame[[f"spacing_{d}_mm" for d in "xyz"]].to_numpy(float)
        along = _slice_axis(sizes, steps)
        within = np.array([(1, 2), (0, 2), (0, 1)])[along]
        plane = np.take_along_axis(sizes, within, axis=1)
        known["slices_along"] = np.array(list("xyz"))[along]
        known["matrix"] = np.array([f"{a} x {b}" for a, b in plane.tolist()], dtype=object)
        leading = [d for d in ("time", "echo") if f"n_{d}" in records]
        there = records[[f"n_{d}" for d in leading]].notna().to_numpy()
        known["leading"] = np.array(
            [" ".join(d for d, has in zip(leading, row, strict=True) if has) for row in there],
            dtype=object,
        )
    for name in CATEGORIES:
        if name in known:
            values = pd.Series(known[name], dtype=object)
            frame[name] = values.map(_told, na_action="ignore").where(values.notna(), None)
    return frame


def _row(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record of the store as a row of the scans table; a row as it is."""
    if "spacing_mm" not in record:
        return record
    sizes = dict(zip(record["dims"], record["shape"], strict=True))
    return {
        **record.get("attrs", {}),
        "scan_id": record["scan_id"],
        "kind": record.get("kind"),
        **{f"shape_{d}": sizes[d] for d in grid.SPACE},
        **{f"n_{d}": n for d, n in sizes.items() if d not in grid.SPACE},
        **{f"spacing_{d}_mm": record["spacing_mm"][d] for d in grid.SPACE},
    }


def _slice_axis(sizes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Axis (0, 1, 2 for x, y, z) along which slices are stacked, as far as shape and spacing tell: (scans,) int array."""
    others = np.array([(1, 2), (0, 2), (0, 1)])
    pair = steps[:, others]
    alike = np.abs(pair[..., 0] - pair[..., 1]) <= TOLERANCE * pair.max(axis=-1)
    odd = alike & ~(np.abs(steps - pair[..., 0]) <= TOLERANCE * steps)
    isotropic = alike.all(axis=1, keepdims=True)
    square = sizes[:, others[:, 0]] == sizes[:, others[:, 1]]
    odd |= isotropic & square & (sizes != sizes[:, others[:, 0]])
    return np.where(odd.sum(axis=1) == 1, odd.argmax(axis=1), 2)


def _joint_codes(columns: Sequence["pd.Series[Any]"], n: int) -> np.ndarray:
    """One number for each combination of values; a missing value is a value: (n,) int array."""
    import pandas as pd

    codes = np.zeros(n, np.int64)
    for column in columns:
        more, values = pd.factorize(column, use_na_sentinel=False)
        codes = pd.factorize(codes * (len(values) + 1) + more)[0].astype(np.int64)
    return codes


def _levels(kinds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each value the most common one of its kind within the tolerance: (scans,) float64 array, NaN for NaN.

    The most common value takes all that are near it, then the most common of the rest, and so on; of two that are equally
    common the smaller goes first. No two levels of a kind are near each other, so each value is looked at twice or less.
    """
    known = ~np.isnan(values)
    pairs = np.stack([kinds[known].astype(float), values[known]])
    unique, back, n = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    kind, value = unique
    span = TOLERANCE * np.abs(value)
    start = _search(kind, value, value - span, side="left")
    stop = _search(kind, value, value + span, side="right")
    level = np.full(len(value), -1)
    for leader in np.lexsort((value, -n)).tolist():
        if level[leader] < 0:
            near = level[start[leader] : stop[leader]]
            near[near < 0] = leader
    result = np.full(len(values), np.nan)
    result[known] = value[level[back.reshape(-1)]]
    return result


def _search(kind: np.ndarray, value: np.ndarray, wanted: np.ndarray, *, side: str) -> np.ndarray:
    """``searchsorted`` of `wanted` among the values of the same kind; both are sorted by kind, then value."""
    # Ranks stand for values: one array sorted by kind and rank can be searched at once.
    ranks, lookup = np.unique(value), kind * 1.0
    width = len(ranks) + 1
    own = lookup * width + np.searchsorted(ranks, value)
    found = np.searchsorted(ranks, wanted, side=side)  # type: ignore[call-overload]
    places: np.ndarray = np.searchsorted(own, lookup * width + found, side="left")
    return places


def _drifts(frame: "pd.DataFrame", protocol: np.ndarray, classes: "pd.DataFrame") -> list[str]:
    rules = _rules(classes)
    if not rules:
        return []
    own = {c: frame[c].tolist() for c in frame.columns}
    expected = {c: classes[c].tolist() for c in classes.columns}  # row i is protocol i + 1
    sentences = {}
    for i in np.flatnonzero(np.isin(protocol, list(rules))).tolist():
        rule, differing = rules[int(protocol[i])]
        said = "; ".join(
            f"{TERMS[c][0]} {_measured(c, own[c][i])}, expected {_measured(c, expected[c][rule - 1])}"
            for c in differing
        )
        scan_id, n = str(own["scan_id"][i]), expected["n"][rule - 1]
        sentences[scan_id] = f"scan {scan_id} drifts from protocol {rule} ({n} scans): {said}"
    return [sentences[scan_id] for scan_id in sorted(sentences)]


def _rules(classes: "pd.DataFrame") -> dict[int, tuple[int, list[str]]]:
    """Protocol that strays -> the one it strays from, and the parameters in which it does."""
    import pandas as pd

    names = [str(c) for c in classes.columns if c not in ("protocol", "n")]
    categories = [c for c in names if c in CATEGORIES]
    numbers = [c for c in names if c in NUMBERS]
    codes = np.zeros((len(classes), len(categories)), np.int64)
    for i, name in enumerate(categories):
        codes[:, i] = pd.factorize(classes[name], use_na_sentinel=False)[0]
    values = classes[numbers].to_numpy(float)
    n = classes["n"].to_numpy(int)
    modality = codes[:, categories.index("modality")] if "modality" in categories else 0 * n
    least = np.maximum(DOMINANT_SCANS, np.bincount(modality, weights=n)[modality] / _CANDIDATES)
    found: dict[int, tuple[int, int, list[str]]] = {}
    for rule in np.flatnonzero(n >= least).tolist():
        peers = np.flatnonzero(modality == modality[rule])
        unknown = np.isnan(values[peers]) | np.isnan(values[rule])
        apart = np.abs(values[peers] - values[rule]) > TOLERANCE * np.abs(values[rule])
        apart = np.where(unknown, np.isnan(values[peers]) != np.isnan(values[rule]), apart)
        differs = np.concatenate([codes[peers] != codes[rule], apart], axis=1)
        count = differs.sum(axis=1)
        near = count <= DRIFT_PARAMETERS
        if n[rule] < DOMINANT_SHARE * n[peers[near]].sum():
            continue
        for peer, where, k in zip(peers[near], differs[near], count[near], strict=True):
            if k and (peer not in found or (k, rule) < found[peer][:2]):
                named = zip((*categories, *numbers), where, strict=True)
                found[peer] = (k, rule, [name for name, is_other in named if is_other])
    number = classes["protocol"].to_numpy(int)
    return {
        int(number[p]): (int(number[rule]), differing) for p, (_, rule, differing) in found.items()
    }


def mixed(records: "pd.DataFrame | Iterable[Mapping[str, Any]]") -> list[str]:
    """One line for each modality whose intensities do not compare: units, photometric interpretation or scaling differ.

    Examples
    --------
    >>> scan = {"scan_id": "a", "modality": "PT", "units": "Bq/ml"}
    >>> mixed([scan, {**scan, "scan_id": "b"}, {**scan, "scan_id": "c", "units": "counts"}])
    ['PT: unit of the voxels Bq/ml (2 scans), counts (1 scan)']
    """
    frame = _frame(records)
    found = []
    for name in ("units", "photometric", "philips_precise"):
        if name not in frame:
            continue
        # Only Philips has two scalings to mix; a NIfTI file has no photometric interpretation.
        counted = frame[name].notna()
        if name == "philips_precise":
            counted = frame["manufacturer"] == "philips" if "manufacturer" in frame else ~counted
        cells = frame[counted]
        kinds = cells["modality"] if "modality" in cells else cells[name].map(lambda _: None)
        for kind, values in cells[name].fillna("False").groupby(kinds.fillna("no modality")):
            counts = sorted(
                values.value_counts().items(), key=lambda item: (-item[1], str(item[0]))
            )
            if len(counts) > 1:
                said = ", ".join(
                    f"{in_words(name, v)} ({n} scan{'s' * (n > 1)})" for v, n in counts
                )
                found.append(f"{kind}: {TERMS[name][0]} {said}")
    return found


def _told(value: Any) -> str:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f"{value:g}" if is_number else str(value)


def in_words(name: str, value: Any) -> str:
    """A value of a parameter as people call it, without its unit.

    Examples
    --------
    >>> in_words("slices_along", "x"), in_words("leading", ""), in_words("echo_time_ms", None)
    ('sagittal', 'none', 'not stated')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_STATED
    text = _told(value)
    return _WORDS.get(name, {}).get(text, text) or "none"


def _measured(name: str, value: Any) -> str:
    """A value with its unit."""
    text, unit = in_words(name, value), TERMS[name][1]
    return f"{text} {unit}" if unit and text != NOT_STATED else text
