"""D6-D8: slices that are there twice, by their pixels, their names or their places."""

import shutil
from dataclasses import replace

import numpy as np
from pydicom.uid import RLELossless, generate_uid
from series import write_series

from hardcases import phantom
from hardcases.dicom_pixels import rewrite
from hardcases.dicom_stacks import write
from hardcases.truth import Refusal, Truth, case


@case("D6", "the same file twice")
def same_file_twice(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    shutil.copy(files[4], folder / "copy of 004.dcm")
    return Truth(scans=[replace(scan, attrs={"n_duplicates": 1})])


@case("D6", "the whole series twice, in two folders")
def whole_series_twice(folder):
    files, scan = write(folder / "a", phantom.grid("LPS"))
    shutil.copytree(folder / "a", folder / "b")
    return Truth(scans=[replace(scan, attrs={"n_duplicates": len(files)})])


@case("D6", "the same pixels sent again under a new SOPInstanceUID")
def same_pixels_twice(folder):
    affine = phantom.grid("LPS")
    uid, study = generate_uid(), generate_uid()
    values = phantom.fill(affine)
    common = {"SeriesInstanceUID": uid, "StudyInstanceUID": study}
    _, scan = write(folder, affine, values, **common)
    again = phantom.grid("LPS").copy()
    again[:3, 3] += 4 * affine[:3, 2]
    write_series(
        folder, values[4:5].astype(np.int16), again, names=[50],
        per_slice=lambda n: {"InstanceNumber": 5}, **common,
    )  # fmt: skip
    return Truth(scans=[replace(scan, attrs={"n_duplicates": 1})])


@case("D7", "one SOPInstanceUID, different pixels")
def uid_conflict(folder):
    affine, uid = phantom.grid("LPS"), generate_uid()
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    files, scan = write(
        folder, affine, per_slice=lambda n: {"SOPInstanceUID": uid} if n == 4 else {}, **common
    )
    other = affine.copy()
    other[:3, 3] += 4 * affine[:3, 2]
    (extra,) = write_series(
        folder, scan.values[5:6].astype(np.int16), other, names=[50],
        per_slice=lambda n: {"InstanceNumber": 5, "SOPInstanceUID": uid}, **common,
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-UID-CONFLICT",), (files[4], extra))])


@case("D8", "one position, different pixels")
def position_twice(folder):
    affine = phantom.grid("LPS")
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    files, scan = write(folder, affine, **common)
    other = affine.copy()
    other[:3, 3] += 4 * affine[:3, 2]
    (extra,) = write_series(
        folder, scan.values[7:8].astype(np.int16), other, names=[50],
        per_slice=lambda n: {"InstanceNumber": 11}, **common,
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-DUP-POS",), (files[4], extra))])


def _sent_again(
    row, title, change=lambda dataset: None, *, syntax=None, moved=0, other=0, conflict=False
):
    """A slice that is there once more, under its own SOPInstanceUID, after `change`; `moved` and `other` by slices."""

    @case(row, title)
    def made(folder):
        affine, uid = phantom.grid("LPS"), generate_uid()
        common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
        common |= {"RescaleSlope": "1", "RescaleIntercept": "0"}
        files, scan = write(
            folder, affine, per_slice=lambda n: {"SOPInstanceUID": uid} if n == 4 else {}, **common
        )
        place = affine.copy()
        place[:3, 3] += (4 + moved) * affine[:3, 2]
        pixels = scan.values[4 + other : 5 + other].astype(np.int16)
        (extra,) = write_series(
            folder, pixels, place, names=[50], syntax=syntax,
            per_slice=lambda n: {"InstanceNumber": 5, "SOPInstanceUID": uid}, **common,
        )  # fmt: skip
        rewrite(extra, change)
        if conflict:
            return Truth(refused=[Refusal(("DCM-UID-CONFLICT",), (files[4], extra))])
        return Truth(scans=[replace(scan, attrs={"n_duplicates": 1})])

    return made


def _described(dataset):
    dataset.SeriesDescription, dataset.InstitutionName = "sent again", "Archive"


def _rescaled(dataset):
    dataset.RescaleSlope = "2"


SENT_AGAIN = (
    _sent_again("D7", "one SOPInstanceUID, the same pixels under another header", _described),
    _sent_again("D7", "one SOPInstanceUID, the same pixels compressed", syntax=RLELossless),
    _sent_again("D7", "one SOPInstanceUID, other pixels compressed", syntax=RLELossless, other=1, conflict=True),
    _sent_again("D7", "one SOPInstanceUID, the same pixels at another place", moved=1, conflict=True),
    _sent_again("D7", "one SOPInstanceUID, the same pixels beyond the end", moved=6, conflict=True),
    _sent_again("D7", "one SOPInstanceUID, the same pixels with another slope", _rescaled, conflict=True),
)  # fmt: skip


@case("D7", "one SOPInstanceUID for all slices")
def one_uid_for_all(folder):
    files, _ = write(folder, phantom.grid("LPS"), SOPInstanceUID=generate_uid())
    return Truth(refused=[Refusal(("DCM-UID-CONFLICT",), (files[0], tuple(files[1:])))])


@case("D7", "one SOPInstanceUID, other pixels of another ImageType")
def other_kind(folder):
    affine, uid = phantom.grid("LPS"), generate_uid()
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    files, scan = write(
        folder, affine, per_slice=lambda n: {"SOPInstanceUID": uid} if n == 4 else {}, **common
    )
    place = affine.copy()
    place[:3, 3] += 4 * affine[:3, 2]
    (extra,) = write_series(
        folder, scan.values[5:6].astype(np.int16), place, names=[50], SOPInstanceUID=uid,
        ImageType=["DERIVED", "PRIMARY", "OTHER"], **common,
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-UID-CONFLICT",), (files[4], extra))])


@case("D7", "no SOPInstanceUID at all")
def no_uid(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    for path in files:
        rewrite(path, _without_uid)
    return Truth(scans=[scan])


def _without_uid(dataset):
    del dataset.SOPInstanceUID
