"""Mosaics and grids: tile for tile the volume that was tiled, or refused where the header does not say enough."""

import numpy as np
import pydicom
import pytest
from hardcases import phantom
from hardcases.dicom_frames import item
from hardcases.dicom_mosaics import csa, mosaic
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sequence import Sequence

from cohort import grid
from cohort.io.dicom import read_series, read_slices
from cohort.io.policy import Policy
from cohort.io.refusal import Refused

CODES = st.sampled_from(["LPS", "LPI", "PIR", "PIL", "LIA", "LIP", "RAS"])
FEW = Policy(min_slices=1)


def same_as(scan, values, affine, atol=1e-4):
    expected, affine = grid.canonical(values, affine)
    np.testing.assert_array_equal(scan.image, expected)
    np.testing.assert_allclose(grid.affine_of(scan), affine, atol=atol)


def made(folder, n=5, codes="LPS", turn=(0.0, 0.0, 0.0), **options):
    """Write a mosaic of `n` slices: its path, its values and affine."""
    affine = phantom.grid(codes, shape=(n, 4, 6), turn=turn)
    values = phantom.fill(affine, (n, 4, 6))
    return mosaic(folder / "a.dcm", affine, values, **options), values, affine


def changed(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


@given(
    n=st.integers(2, 17), codes=CODES, turn=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    count=st.sampled_from(["csa", "tag", "both"]),
)  # fmt: skip
def test_a_mosaic_is_the_volume_that_was_tiled(n, codes, turn, count, tmp_path_factory):
    path, values, affine = made(tmp_path_factory.mktemp("s"), n, codes, turn, count=count)
    same_as(read_series([path], policy=Policy(min_slices=2)), values, affine)
    with path.open("rb") as stream:
        headers = read_slices(stream, path)
    assert [h["frame"] for h in headers] == list(range(n))
    assert {(h["rows"], h["columns"]) for h in headers} == {(4, 6)}


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.5"])
def test_a_mosaic_is_cut_in_any_syntax(syntax, tmp_path):
    path, values, affine = made(tmp_path)

    def change(dataset):
        if syntax.endswith(".5"):
            dataset.compress(syntax, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax

    changed(path, change)
    same_as(read_series([path]), values, affine)


def protocol(affine, n, *, slab=False):
    """Siemens' protocol of the slices of `affine`, or of the one slab around them."""
    numbers = [(n - 1) / 2] if slab else range(n)
    lines = [f"sSliceArray.lSize = {len(numbers)}"]
    for k, number in enumerate(numbers):
        centre = np.diag([-1, -1, 1, 1]) @ affine @ [2.5, 1.5, number, 1]
        lines += [
            f"sSliceArray.asSlice[{k}].sPosition.d{name} = {value:.9g}"
            for name, value in zip(("Sag", "Cor", "Tra"), centre[:3], strict=True)
        ]
    return csa(MrPhoenixProtocol=("UN", ["\n".join(lines)]))


def bare(path, *elements):
    """Take every private element out, and put others in: (group, element, VR, value)."""

    def change(dataset):
        dataset.remove_private_tags()
        for group, element, vr, value in elements:
            dataset.add_new((group, element), vr, value)

    changed(path, change)


@pytest.mark.parametrize("codes", ["LPS", "LPI", "PIR", "PIL"])
@pytest.mark.parametrize("where", [(0x29, 0x1020), (0x29, 0x1120), (0x21, 0x1019)])
def test_the_protocol_alone_tells_how_many_and_to_which_side(where, codes, tmp_path):
    path, values, affine = made(tmp_path, 5, codes)
    bare(path, (*where, "OB", protocol(affine, 5)))
    changed(path, lambda d: delattr(d, "SpacingBetweenSlices"))
    same_as(read_series([path]), values, affine)


@pytest.mark.parametrize("codes", ["LPS", "LPI"])
def test_one_slab_tells_to_which_side_but_not_how_many(codes, tmp_path):
    path, values, affine = made(tmp_path, 5, codes)
    slab = (0x29, 0x1020, "OB", protocol(affine, 5, slab=True))
    bare(path, slab, (0x19, 0x100A, "US", 5))
    same_as(read_series([path]), values, affine)
    bare(path, slab)
    with pytest.raises(Refused, match="no number of slices"):
        read_series([path])


@pytest.mark.parametrize(
    ("elements", "match"),
    [
        ([], "no number of slices"),
        ([(0x19, 0x100A, "US", 5)], "no side to which its slices run"),
        ([(0x19, 0x100A, "US", 5), (0x29, 0x1010, "OB", b"SV10" + b"\xff" * 90)], "no side"),
        ([(0x19, 0x100A, "US", 50)], "12 x 18 pixels do not divide into 8 x 8 tiles for 50 slices"),
        ([(0x19, 0x100A, "US", 5), (0x29, 0x1010, "OB", csa(NumberOfImagesInMosaic=("US", ["6"])))], "5 and 6 of slices"),
        (
            [
                (0x29, 0x1020, "OB", protocol(phantom.grid("LPI", shape=(5, 4, 6)), 5)),
                (0x29, 0x1010, "OB", csa(SliceNormalVector=("FD", ["0", "0", "1"]))),
                (0x19, 0x100A, "US", 5),
            ],
            "gives both sides",
        ),
    ],
)  # fmt: skip
def test_what_the_header_does_not_say_is_not_guessed(elements, match, tmp_path):
    path, _, _ = made(tmp_path, 5, "LPI")
    bare(path, *elements)
    with pytest.raises(Refused, match=match) as caught:
        read_series([path])
    assert (caught.value.code, caught.value.files) == ("DCM-MOSAIC", (path,))
    assert "private elements" in caught.value.fix


def test_a_mosaic_needs_the_distance_of_its_slices(tmp_path):
    path, _, _ = made(tmp_path)
    changed(path, lambda d: delattr(d, "SpacingBetweenSlices"))
    with pytest.raises(Refused, match="how far apart"):
        read_series([path])


def test_a_mosaic_without_position_is_refused_like_any_slice(tmp_path):
    path, _, _ = made(tmp_path)
    changed(path, lambda d: delattr(d, "ImagePositionPatient"))
    with pytest.raises(Refused, match="no position") as caught:
        read_series([path], policy=FEW)
    assert caught.value.code == "DCM-NO-GEOMETRY"


def enhanced_mosaic(path, *, n_frames=1):
    """Make a classic mosaic the one frame of an enhanced file, as later Siemens software may."""

    def change(dataset):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
            "1.2.840.10008.5.1.4.1.1.4.1"
        )
        dataset.NumberOfFrames = n_frames
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
        frame = item(
            PlanePositionSequence={"ImagePositionPatient": dataset.ImagePositionPatient},
            PlaneOrientationSequence={"ImageOrientationPatient": dataset.ImageOrientationPatient},
            PixelMeasuresSequence={"PixelSpacing": dataset.PixelSpacing},
            MRImageFrameTypeSequence={"FrameType": ["ORIGINAL", "PRIMARY", "M", "NONE"]},
            FrameContentSequence={"FrameAcquisitionDateTime": "20200101101010.5"},
        )
        kind = frame.MRImageFrameTypeSequence[0]
        kind.private_block(0x0021, "SIEMENS MR SDI 02", create=True)
        kind.add_new(0x00211175, "CS", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
        dataset.PerFrameFunctionalGroupsSequence = Sequence([frame] * n_frames)
        dataset.SharedFunctionalGroupsSequence = Sequence([item()])
        dataset.PixelData = dataset.PixelData * n_frames
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(dataset, keyword)

    changed(path, change)


def test_the_one_mosaic_in_an_enhanced_file_is_cut(tmp_path):
    path, values, affine = made(tmp_path)
    enhanced_mosaic(path)
    same_as(read_series([path]), values, affine)


def test_frames_that_only_call_themselves_mosaics_are_slices(tmp_path):
    path, _, _ = made(tmp_path)
    enhanced_mosaic(path, n_frames=2)
    with path.open("rb") as stream:
        headers = read_slices(stream, path)
    assert [(h["frame"], h["tile"], h["rows"]) for h in headers] == [(0, None, 12), (1, None, 12)]


@given(n=st.integers(1, 13), codes=CODES)
def test_a_united_imaging_grid_is_the_volume_that_was_tiled(n, codes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("s")
    affine = phantom.grid(codes, shape=(n, 4, 6))
    values = phantom.fill(affine, (n, 4, 6))
    path = united_imaging(folder / "a.dcm", affine, values)
    same_as(read_series([path], policy=FEW), values, affine)


def united_imaging(path, affine, values, *, said=None):
    """Tile slices into ceil(sqrt(n)) columns and the rows they take; each has its position in a private sequence."""
    n = len(values)
    across = int(np.ceil(np.sqrt(n)))
    down = -(-n // across)
    square = np.zeros((max(across, down) ** 2, 4, 6))
    square[:n] = values
    mosaic(path, affine, square[: across**2] if across > 1 else values, count="none")
    dataset = pydicom.dcmread(path)
    sheet = dataset.pixel_array[: 4 * down]
    dataset.Rows, dataset.PixelData = 4 * down, sheet.tobytes()
    dataset.Manufacturer, dataset.ImageType = "UIH", ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", str(said or n))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    places = [[f"{v:.8g}" for v in (lps @ [0, 0, k, 1])[:3]] for k in range(n)]
    slices = [
        item(ImagePositionPatient=p, AcquisitionTime=f"10101{k % 10}") for k, p in enumerate(places)
    ]
    block.add_new(0x51, "SQ", Sequence(slices))
    dataset.save_as(path)
    return path


def test_a_grid_that_lacks_positions_is_refused(tmp_path):
    affine = phantom.grid("LPS", shape=(5, 4, 6))
    path = united_imaging(tmp_path / "a.dcm", affine, phantom.fill(affine, (5, 4, 6)), said=6)
    with pytest.raises(Refused, match="a grid of 6 slices gives the positions of 5") as caught:
        read_series([path])
    assert caught.value.code == "DCM-MOSAIC"
