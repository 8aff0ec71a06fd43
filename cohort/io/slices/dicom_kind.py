"""Which DICOM slices are images to measure, and which of those hold what nobody should guess about."""

from collections.abc import Sequence
from pathlib import Path

from cohort.io.policy import Notes
from cohort.io.refusal import Refused
from cohort.io.slices.dicom_file import IMPLICIT
from cohort.io.slices.dicom_header import MULTI_FRAME, SINGLE_FRAME, Header

MADE_OF_OTHERS = ("MPR", "MIP", "MINIP", "PROJECTION IMAGE", "REFORMATTED", "SCREEN SAVE")
"""Image types of what, if derived, was computed from images that are measured themselves."""


def unmeasured(sop_class: str, image_type: Sequence[str]) -> frozenset[str]:
    """Codes for which images of a kind are skipped, none for those that are measured."""
    is_made = "DERIVED" in image_type and bool(set(MADE_OF_OTHERS) & set(image_type))
    says = {
        "DCM-CAPTURE": is_made or sop_class not in SINGLE_FRAME + MULTI_FRAME,
        "DCM-LOCALIZER": "LOCALIZER" in image_type,
    }
    return frozenset(code for code, is_so in says.items() if is_so)


def check_kind(header: Header, path: Path, notes: Notes) -> None:
    """Raise `Refused` unless a slice can be measured as it is, or as the policy says.

    Raises
    ------
    Refused
        Skipped: ``DCM-NOT-IMAGE``, ``DCM-CAPTURE``, ``DCM-LOCALIZER``. Quarantined: ``DCM-NO-META``,
        ``DCM-BURNED-IN``, ``DCM-BITS``, ``DCM-LUT``, and the header's own `problem`.
    """
    if (
        header["samples"] != 1
        or header["bits_allocated"] not in (8, 16, 32)
        or header["photometric"] not in ("MONOCHROME1", "MONOCHROME2")
    ):
        raise _skipped(
            "DCM-NOT-IMAGE",
            f"{header['samples']} samples of {header['bits_allocated']} bits a pixel, or colours, in {{0}}",
            "nothing: colour captures and bit maps are not measured.",
            path,
        )
    codes = unmeasured(header["sop_class"], header["image_type"])
    if header["sop_class"] not in SINGLE_FRAME + MULTI_FRAME:
        what = "neither CT, MR nor PET: {0}"
        notes.refuse(_skipped("DCM-CAPTURE", what, "nothing: captures are not measured.", path))
    elif "DCM-CAPTURE" in codes:
        what = "made from other images (a reformat, a projection or a capture): {0}"
        notes.refuse(_skipped("DCM-CAPTURE", what, "nothing: its source is measured.", path))
    if "DCM-LOCALIZER" in codes:
        what = "a localizer, not a scan to measure: {0}"
        notes.refuse(_skipped("DCM-LOCALIZER", what, "nothing.", path))
    if not header["has_meta"] and header["syntax"] == IMPLICIT:
        what = "no file meta information, so that nothing says how {0} is encoded"
        fix = "write the series with file meta information, for example with dcmconv."
        notes.refuse(Refused("DCM-NO-META", what, fix=fix, files=[path]))
    if header["burned_in"]:
        what = "BurnedInAnnotation is YES in {0}"
        fix = "export the series without burned-in text."
        notes.refuse(Refused("DCM-BURNED-IN", what, fix=fix, files=[path]))
    if header["problem"]:
        code, what, fix = header["problem"]
        raise Refused(code, what, fix=fix, files=[path])
    stored = header["bits_stored"]
    if header["high_bit"] != stored - 1 or not 0 < stored <= header["bits_allocated"]:
        raise Refused(
            "DCM-BITS",
            f"HighBit {header['high_bit']}, BitsStored {stored} and BitsAllocated {header['bits_allocated']} "
            "contradict each other in {0}",
            fix="export the series again from its source.",
            files=[path],
        )
    if header["has_lut"]:
        what = "values pass through a modality table in {0}"
        fix = "export the series with a linear rescale."
        notes.refuse(Refused("DCM-LUT", what, fix=fix, files=[path]))


def check_photometric(header: Header, path: Path, notes: Notes) -> None:
    """Raise `Refused`, ``DCM-MONOCHROME1``, where low values are shown white, unless the policy accepts that.

    By the standard (PS3.3 C.7.6.3.1.2) that is about the display alone, and the stored values are what is measured; programs that
    invert them on the way are common, and nothing in a file tells whether one has.
    """
    if header["photometric"] == "MONOCHROME1":
        what = "PhotometricInterpretation is MONOCHROME1, expected MONOCHROME2, so that the values may have been inverted, in {0}"
        fix = "look whether air is dark and export the series as MONOCHROME2"
        notes.refuse(Refused("DCM-MONOCHROME1", what, fix=fix, files=[path]))


def _skipped(code: str, what: str, fix: str, path: Path) -> Refused:
    return Refused(code, what, fix=fix, files=[path], state="skipped")
