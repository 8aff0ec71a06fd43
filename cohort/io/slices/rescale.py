"""What the stored numbers of slices stand for: one rescale a series, one a slice, a table, or Philips' private factors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from cohort import schema
from cohort.io import patience
from cohort.io.refusal import Refused
from cohort.io.slices.dicom_file import parse
from cohort.io.slices.dicom_header import Header
from cohort.io.slices.pixels import stored_dtype

_TABLE_TAGS = (0x00280103, 0x00283000)
"""PixelRepresentation and ModalityLUTSequence."""

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Rescale:
    """How the pixels of each slice become the numbers of an image.

    Parameters
    ----------
    scales : sequence of (slope, intercept)
        One a slice.
    dtype : dtype
        Of the image: the stored integers' own if one rescale serves all, which `attrs` then holds, else float32.
    tables : bool
        Some slices have a modality table instead.
    attrs : mapping
        CF attributes of the image.
    """

    scales: Sequence[tuple[float, float]]
    dtype: np.dtype
    tables: bool
    attrs: dict[str, Any]

    def values(self, number: int, pixels: np.ndarray, header: Header, path: Path) -> np.ndarray:
        """Values of one slice as the image holds them: stored integers, or numbers in float32."""
        if self.dtype.kind != "f":
            return pixels
        if self.tables and header["has_lut"]:
            return _looked_up(pixels, path).astype(np.float32)
        scale, offset = self.scales[number]
        return schema.decode_array(pixels, scale=scale, offset=offset)


def rescale(
    headers: Sequence[Header], files: Sequence[Path], *, precise: bool, decoded: bool
) -> Rescale:
    """Choose the rescale of a series.

    Parameters
    ----------
    headers : sequence of Header
        One a slice.
    files : sequence of Path
        The file of each.
    precise : bool
        By Philips' private factors, (stored * RS + RI) / (RS * SS), which undo the scaling for display.
    decoded : bool
        As numbers in any case: they will be interpolated.

    Raises
    ------
    Refused
        ``DCM-SLOPE`` if a slope is 0 or values overflow float32, ``DCM-RESCALE`` if some slices have no slope or no
        intercept and others do, ``DCM-PHILIPS-SCALE`` if a precise one is asked for and a slice has none.

    Notes
    -----
    Oracle: DICOM PS3.3 C.11.1; Chenevert et al. 2014, Transl Oncol 7:65, for Philips.
    """
    _check_all_have_one(headers, files)
    scales = [
        _scale(header, path, precise=precise) for header, path in zip(headers, files, strict=True)
    ]
    tables = any(header["has_lut"] for header in headers)
    if tables or decoded or len(set(scales)) > 1:
        return Rescale(scales, np.dtype(np.float32), tables, {})
    slope, intercept = scales[0]
    attrs = {} if scales[0] == (1.0, 0.0) else {"scale_factor": slope, "add_offset": intercept}
    return Rescale(scales, np.result_type(*{stored_dtype(h) for h in headers}), tables, attrs)


def _scale(header: Header, path: Path, *, precise: bool) -> tuple[float, float]:
    slope, intercept = header["slope"], header["intercept"]
    if slope == 0:
        raise Refused(
            "DCM-SLOPE",
            "RescaleSlope is 0 in {0}",
            fix="export the series again from its source.",
            files=[path],
        )
    if not precise:
        return _checked(slope, intercept, header, path)
    private = header["philips_slope"]
    if not private:
        raise Refused(
            "DCM-PHILIPS-SCALE",
            "no scale slope (2005,100E) above 0, which philips_precise needs, in {0}",
            fix="export the series again with its private elements, or leave philips_precise out.",
            files=[path],
        )
    return _checked(1 / private, intercept / (slope * private), header, path)


def _checked(slope: float, intercept: float, header: Header, path: Path) -> tuple[float, float]:
    """Refuse a rescale whose values no float32 holds: they would become infinite, or all the same."""
    largest = abs(slope) * 2.0 ** header["bits_stored"] + abs(intercept)
    if largest <= _LARGEST and abs(slope) >= _SMALLEST:
        return slope, intercept
    raise Refused(
        "DCM-SLOPE",
        f"a slope of {slope:g} and an intercept of {intercept:g} lead out of what float32 holds "
        f"({_SMALLEST:.3g} to {_LARGEST:.3g}) in {{0}}",
        fix="export the series again from its source.",
        files=[path],
    )


def _check_all_have_one(headers: Sequence[Header], files: Sequence[Path]) -> None:
    """Refuse a series of which some slices have a rescale and others none: their numbers are not of one kind."""
    plain = [
        (header, path) for header, path in zip(headers, files, strict=True) if not header["has_lut"]
    ]
    for name, key in (("RescaleSlope", "has_slope"), ("RescaleIntercept", "has_intercept")):
        without = [path for header, path in plain if not header[key]]  # type: ignore[literal-required]
        if 0 < len(without) < len(plain):
            raise Refused(
                "DCM-RESCALE",
                f"{len(without)} of {len(plain)} slices have no {name}, and the others have one: {{0}}",
                fix="export the series again from its source, or remove the slices that do not belong to it.",
                files=without[:1],
            )


def _looked_up(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Pass stored values through the modality table of their file."""
    try:
        with patience.opened(path) as stream:
            parsed = parse(stream, path, tags=_TABLE_TAGS)
        dataset = Dataset(cast(Any, parsed.elements if parsed else {}))
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(parsed.syntax if parsed else "")
        return np.asarray(apply_modality_lut(pixels, dataset))
    # pydicom raises whatever a damaged table leads it to.
    except Exception as error:
        raise Refused(
            "DCM-LUT",
            f"the modality table cannot be used ({type(error).__name__}) in {{0}}",
            fix="export the series with a linear rescale.",
            files=[path],
        ) from error


def philips_attrs(headers: Sequence[Header]) -> dict[str, float]:
    """Philips' private factors, for the record: those that are the same for every slice."""
    attrs: dict[str, float] = {}
    for name, key in (
        ("philips_scale_slope", "philips_slope"),
        ("philips_scale_intercept", "philips_intercept"),
    ):
        found = {header[key] for header in headers}  # type: ignore[literal-required]
        if len(found) == 1 and (value := found.pop()) is not None:
            attrs[name] = value
    return attrs
