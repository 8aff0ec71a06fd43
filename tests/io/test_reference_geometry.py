"""Every real series against dcm2niix: the same voxels in the same place, or a refusal with the code that is stated here."""

import json
from collections import defaultdict

import nibabel as nib
import numpy as np
import pytest

from cohort import grid, schema
from cohort.io.dicom import read_series, read_slices
from cohort.io.policy import Policy
from cohort.io.refusal import Refused
from cohort.io.slices import dicom_header

SAME_MM = 1e-3

NIH, SAMPLES, FAILING = (
    "dcm-qa/dcm_qa_nih/In/20180918", "dicom2nifti-samples/", "dicom2nifti-samples/failing/"
)  # fmt: skip
LOCALIZERS = Policy(accept=frozenset({"DCM-LOCALIZER"}))

SAME = {
    "dcm-qa/dcm_qa/In/ax/axasc35": [(2, 35, 64, 64)],
    "dcm-qa/dcm_qa/In/ax/axint36": [(2, 36, 64, 64)],
    "dcm-qa/dcm_qa/In/cor/cordesc36": [(2, 64, 36, 64)],
    "dcm-qa/dcm_qa/In/sag/sagint35": [(2, 64, 64, 35)],
    "dcm-qa/dcm_qa_enh/In/Siemens-XA10": [(4, 6, 64, 64)],
    NIH + "GE/mr_0004": [(10, 15, 64, 64)],
    NIH + "Si/mr_0003": [(2, 5, 72, 72)],
    NIH + "Si/mr_0005": [(2, 5, 72, 72)],
    SAMPLES + "ge/anatomical/001": [(256, 256, 4)],
    SAMPLES + "ge/dti/001": [(2, 4, 128, 128)],
    SAMPLES + "ge/fmri/001": [(2, 4, 64, 64)],
    SAMPLES + "generic/anatomical/001": [(256, 256, 4)],
    SAMPLES + "generic/anatomical/002_non_isotropic": [(4, 28, 64)],
    SAMPLES + "generic/compressed_j2k/001": [(256, 256, 4)],
    SAMPLES + "generic/compressed_jpeg/001": [(256, 256, 4)],
    SAMPLES + "generic/compressed_jpegls/001": [(256, 256, 4)],
    SAMPLES + "generic/compressed_rle/001": [(256, 256, 4)],
    SAMPLES + "hitachi/anatomical/001": [(64, 64, 4)],
    SAMPLES + "philips/anatomical/001": [(240, 4, 240)],
    SAMPLES + "philips/dti/001": [(4, 2, 128, 128)],
    SAMPLES + "philips/fmri/001": [(4, 2, 80, 80)],
    SAMPLES + "siemens/anatomical/001": [(256, 256, 4)],
    "sunnybrook-cine": [(20, 11, 256, 256)],
    "sunnybrook-localizers/SCD0000101": [(5, 256, 256), (256, 256, 5), (256, 5, 256)],
    "tcia-chest-ct": [(5, 512, 512)],
}
"""Series whose scans are those of dcm2niix, voxel for voxel."""

REFUSED = {
    FAILING + "notavolume/001": ["DCM-TOO-FEW"],
    FAILING + "slicecount/001": ["DCM-TOO-FEW"],
    FAILING + "sliceincrement/002": ["DCM-GAP"],
    FAILING + "sliceorientation/001": ["DCM-TOO-FEW", "DCM-TOO-FEW"],
    SAMPLES + "ge/anatomical/001_single_slice": ["DCM-TOO-FEW"],
    SAMPLES + "generic/rgb/001": ["DCM-NOT-IMAGE"],
    "dcmstack-multiecho": ["DCM-GAP", "DCM-TOO-FEW", "DCM-TOO-FEW"],
}
"""Series of which dcm2niix makes volumes all the same."""

OWN = {
    FAILING + "gantrytilting/001": "dcm2niix leaves the shear out of its affine",
    SAMPLES + "philips_enhanced/fmri/001": "dcm2niix scales by Philips' private factors",
    SAMPLES
    + "siemens/fmri/001": "dcm2niix guesses how many tiles there are, and to which side they run",
}
"""Series that have a test of their own below, and why."""


@pytest.fixture(scope="module")
def table(shared):
    """Rows of dcm2niix's results by series."""
    rows = defaultdict(list)
    for row in json.loads((shared / "geometry_reference.json").read_text())["series"]:
        rows[row["series"]].append(row)
    return rows


def scans_of(folder):
    """Files and frames of each scan under a folder, as the index groups them."""
    slices = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as stream:
            headers = read_slices(stream, path) or []
        slices += [(path, n, dicom_header.group_key(h)) for n, h in enumerate(headers) if h["rows"]]
    for numbers in dicom_header.group([key for _, _, key in slices]):
        frames = defaultdict(list)
        for number in numbers:
            frames[slices[number][0]].append(slices[number][1])
        yield {"files": list(frames), "frames": [tuple(f) for f in frames.values()]}


def canonical(row):
    """Shape (z, y, x) and affine of a row on canonical axes."""
    shape = row["shape"][:3][::-1]
    affine = np.vstack([row["affine"], [0, 0, 0, 1]])
    view, affine = grid.canonical(np.broadcast_to(np.uint8(0), shape), affine)
    return (*row["shape"][3:], *view.shape), affine


def differences(scan, row):
    """How a scan differs from a row of dcm2niix's results; [] if it does not."""
    shape, affine = canonical(row)
    if scan.image.shape != shape:
        return [f"shape {scan.image.shape}, not {shape}"]
    corners = [grid.corners(a, shape[-3:]) for a in (grid.affine_of(scan), affine)]
    apart = np.linalg.norm(corners[0] - corners[1], axis=1).max()
    wrong = [f"corners {apart:.4f} mm apart"] if apart > SAME_MM else []
    values = schema.decode(scan.image).values
    size = max(abs(row["min"]), abs(row["max"]))
    for name, mine, tolerance in (
        ("min", values.min(), 1e-6 * size),
        ("max", values.max(), 1e-6 * size),
        ("mean", values.mean(dtype=float), 1e-6 * size),
    ):
        if abs(mine - row[name]) > tolerance:
            wrong.append(f"{name} {mine}, not {row[name]}")
    return wrong


def test_every_series_of_the_oracle_is_here(table):
    assert {*SAME, *REFUSED, *OWN} == set(table)


@pytest.mark.parametrize("name", SAME)
def test_a_series_has_the_voxels_and_the_place_that_dcm2niix_gives_it(name, shared, table):
    scans = [read_series(**one, policy=LOCALIZERS) for one in scans_of(shared / name)]
    assert sorted(s.image.shape for s in scans) == sorted(SAME[name])
    for row in table[name]:
        compared = [differences(scan, row) for scan in scans]
        assert compared.count([]) == 1, compared
    for scan in scans:
        schema.check(scan)


@pytest.mark.parametrize("name", REFUSED)
def test_a_series_that_is_no_volume_is_refused(name, shared):
    found = []
    for one in scans_of(shared / name):
        with pytest.raises(Refused, match="Fix: ") as caught:
            read_series(**one)
        found.append(caught.value.code)
    assert sorted(found) == REFUSED[name]


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("dcmstack-multiecho", 2), (FAILING + "slicecount/001", 1), (FAILING + "sliceorientation/001", 2)],
)  # fmt: skip
def test_two_slices_are_a_volume_where_a_researcher_says_so(name, accepted, shared, table):
    scans = [
        read_series(**one, policy=Policy(min_slices=2))
        for one in scans_of(shared / name)
        if len(one["files"]) == 2
    ]
    assert len(scans) == accepted
    for scan in scans:
        assert [differences(scan, row) for row in table[name]].count([]) == 1


@pytest.mark.parametrize(
    ("name", "step_mm"),
    [("dcmstack-multiecho", 10.5), (FAILING + "sliceincrement/002", 0.75)],
)
def test_a_missing_slice_is_interpolated_where_a_researcher_says_so(name, step_mm, shared, table):
    policy = Policy(resample="uniform", min_slices=3)
    (uneven,) = [one for one in scans_of(shared / name) if len(one["files"]) > 2]
    scan = read_series(**uneven, policy=policy)
    row = next(r for r in table[name] if r["shape"][2] == len(uneven["files"]))
    shape, affine = canonical(row)
    assert scan.image.sizes["z"] == shape[0] + 1
    assert grid.spacing_mm(scan)["z"] == pytest.approx(step_mm, abs=1e-3)
    np.testing.assert_allclose(grid.affine_of(scan)[:, [0, 1, 3]], affine[:, [0, 1, 3]], atol=1e-3)
    values = scan.image.values
    (missing,) = [
        k for k in range(1, len(values) - 1) if same(values[k], (values[k - 1] + values[k + 1]) / 2)
    ]
    there = np.delete(values, missing, axis=0)
    assert there.mean(dtype=float) == pytest.approx(row["mean"], rel=1e-5)
    assert (there.min(), there.max()) == (row["min"], row["max"])
    assert scan.resampled.startswith(f"uniform: {shape[0]} slices {step_mm:.2f}")


def same(one, other):
    return bool(np.allclose(one, other, atol=1e-3))


REFERENCES = {
    "dcm-qa/dcm_qa/In/ax/axasc35": "dcm-qa/dcm_qa/Ref/ax_asc_35sl_6",
    "dcm-qa/dcm_qa/In/ax/axint36": "dcm-qa/dcm_qa/Ref/ax_int_36sl_12",
    "dcm-qa/dcm_qa/In/cor/cordesc36": "dcm-qa/dcm_qa/Ref/cor_desc_36sl_14",
    "dcm-qa/dcm_qa/In/sag/sagint35": "dcm-qa/dcm_qa/Ref/sag_int_35sl_24",
    "dcm-qa/dcm_qa_enh/In/Siemens-XA10": "dcm-qa/dcm_qa_enh/Ref/Siemens_REST1_w_SMS_PF7-8_6",
    NIH + "GE/mr_0004": "dcm-qa/dcm_qa_nih/Ref/DCM2NIIX_regression_test_4",
    NIH + "Si/mr_0003": "dcm-qa/dcm_qa_nih/Ref/EPI_PE=AP_3",
    NIH + "Si/mr_0005": "dcm-qa/dcm_qa_nih/Ref/EPI_PE=RL_5",
}


def same_as_nifti(scan, path):
    oracle = nib.as_closest_canonical(nib.load(f"{path}.nii.gz"))
    np.testing.assert_array_equal(schema.decode(scan.image), np.asarray(oracle.dataobj).T)
    np.testing.assert_allclose(grid.affine_of(scan), oracle.affine, atol=SAME_MM)


@pytest.mark.parametrize("name", REFERENCES)
def test_every_voxel_is_that_of_the_reference_image(name, shared):
    (one,) = scans_of(shared / name)
    same_as_nifti(read_series(**one), shared / REFERENCES[name])


@pytest.mark.parametrize("number", range(1, 10))
def test_one_mosaic_is_the_same_in_every_transfer_syntax(number, shared):
    folder = shared / "dcm-qa/dcm_qa_ts"
    same_as_nifti(read_series([folder / f"In/{number}.dcm"]), folder / "Ref/1")


def test_nine_copies_of_one_mosaic_are_one(shared):
    (one,) = scans_of(shared / "dcm-qa/dcm_qa_ts/In")
    scan = read_series(**one)
    assert (scan.n_files, scan.n_duplicates) == (1, 8 * 35)
    same_as_nifti(scan, shared / "dcm-qa/dcm_qa_ts/Ref/1")


def test_a_mosaic_without_its_header_lies_where_the_protocol_says(shared, table):
    name = SAMPLES + "siemens/fmri/001"
    (one,) = scans_of(shared / name)
    scan = read_series(**one)
    # The protocol plans 50 slices and numbers them from the head: the first tile is its last slice.
    assert scan.image.shape == (2, 50, 80, 80)
    first, last = np.array([(-1.513475754, -20.56062043, -59.85445753),
                            (-1.446935604, 7.71821632, 88.39246272)]) * (-1, -1, 1)  # fmt: skip
    centre = nib.affines.apply_affine(grid.affine_of(scan), [(39.5, 39.5, 0), (39.5, 39.5, 49)])
    half = np.abs(grid.affine_of(scan)[:3, :2]).sum(axis=1) / 2
    assert (np.abs(centre - [first, last]) <= half + 1e-3).all()
    # The first tile lies where dcm2niix has it; its 64 tiles run to the other side, over the head and beyond.
    oracle = np.vstack([table[name][0]["affine"], [0, 0, 0, 1]]) @ np.diag([1, 1, -1, 1])
    _, expected = grid.canonical(np.broadcast_to(np.uint8(0), (50, 80, 80)), oracle)
    np.testing.assert_allclose(grid.affine_of(scan), expected, atol=SAME_MM)
    assert scan.flags == "time_inferred"


def test_enhanced_frames_are_scaled_as_the_standard_says_or_precisely(shared, table):
    name = SAMPLES + "philips_enhanced/fmri/001"
    (one,) = scans_of(shared / name)
    public, precise = (read_series(**one, policy=Policy(philips_precise=p)) for p in (False, True))
    (row,) = table[name]
    # dcm2niix takes the step from SpacingBetweenSlices, 3.313 mm; the positions say 3.3125.
    assert differences(precise, row) == ["corners 0.0035 mm apart"]
    np.testing.assert_allclose(grid.affine_of(precise), canonical(row)[1], atol=SAME_MM)
    assert precise.philips_precise
    assert public.image.scale_factor == pytest.approx(1.85934065934065)
    assert precise.image.scale_factor == pytest.approx(row["slope_inter"][0])
    np.testing.assert_array_equal(public.image, precise.image)
    np.testing.assert_array_equal(grid.affine_of(public), grid.affine_of(precise))
    for scan in (public, precise):
        assert scan.philips_scale_slope == pytest.approx(0.000542474735993892)
        assert scan.philips_scale_intercept == 0
    assert "philips_precise" not in public.attrs
    assert (public.echo_time_ms, public.repetition_time_ms, public.slice_thickness_mm) == (
        30,
        3000,
        3.313,
    )


def test_a_tilted_gantry_keeps_its_shear(shared, table):
    name = FAILING + "gantrytilting/001"
    (one,) = scans_of(shared / name)
    scan = read_series(**one)
    affine = grid.affine_of(scan)
    assert (scan.flags, grid.is_sheared(affine)) == ("sheared", True)
    row = next(r for r in table[name] if r["shape"][2] == 4)
    shape, upright = canonical(row)
    np.testing.assert_allclose(affine[:, [0, 1]], upright[:, [0, 1]], atol=SAME_MM)
    heights = []
    for path in one["files"]:
        with path.open("rb") as stream:
            heights.append(read_slices(stream, path)[0]["position"][2])
    lowest = [nib.affines.apply_affine(affine, (0, shape[1] - 1, k))[2] for k in range(4)]
    np.testing.assert_allclose(lowest, sorted(heights), atol=1e-9)
    values = schema.decode(scan.image).values
    assert values.mean(dtype=float) == pytest.approx(row["mean"], rel=1e-6)


def test_the_chest_is_in_hounsfield_units_and_spaced_by_positions(shared):
    (one,) = scans_of(shared / "tcia-chest-ct")
    scan = read_series(**one)
    assert (scan.image.dtype, scan.image.units) == (np.uint16, "HU")
    assert grid.spacing_mm(scan) == pytest.approx({"z": 3.27, "y": 0.976562, "x": 0.976562})
    # SliceThickness is 3.75 mm: the slices overlap.
    assert scan.flags == "slice_spacing_tag_wrong"


def test_the_heart_beats_in_seconds_and_its_misfiled_copies_are_dropped(shared):
    (one,) = scans_of(shared / "sunnybrook-cine")
    scan = read_series(**one)
    assert (scan.n_files, scan.n_duplicates) == (220, 2)
    assert scan.time.units == "s"
    assert (np.diff(scan.time) > 0).all()
    assert grid.spacing_mm(scan)["z"] == pytest.approx(10, abs=1e-3)
    # ImagesInAcquisition says 240.
    assert scan.flags == "possible_truncation"


@pytest.mark.parametrize(
    ("name", "times", "attrs", "flags"),
    [
        (NIH + "GE/mr_0004", range(10), {"units": "frame", "basis": "InstanceNumber"}, "time_inferred"),
        (NIH + "Si/mr_0003", [0, 2.435], {"units": "s", "basis": "AcquisitionTime"}, ""),
        ("dcm-qa/dcm_qa/In/ax/axasc35", [0, 3.01], {"units": "s", "basis": "AcquisitionTime"}, ""),
        ("dcm-qa/dcm_qa_enh/In/Siemens-XA10", [0, 0.5, 1, 1.5], {"units": "s", "basis": "AcquisitionTime"}, ""),
    ],
)  # fmt: skip
def test_time_comes_from_tags_or_is_marked_as_inferred(name, times, attrs, flags, shared):
    (one,) = scans_of(shared / name)
    scan = read_series(**one)
    np.testing.assert_allclose(scan.time, list(times), atol=1e-6)
    assert scan.time.attrs == attrs
    assert scan.attrs.get("flags", "") == flags
