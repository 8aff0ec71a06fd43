"""Slices that one series holds and that are not one scan: joined where that is certain, else refused, never mixed."""

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid
from series import CT, phantom, save, slice_of, write_series

from cohort.io.dicom import read_series
from cohort.io.discover import discover
from cohort.io.refusal import Refused


def one_series(folder, per_slice=lambda n: {}, *, shape=(8, 6, 5), **tags):
    """Write a series and give what is found in it: scans, refusals."""
    write_series(folder, *phantom(shape), per_slice=per_slice, **tags)
    return found_in(folder)


def found_in(folder):
    found = discover([folder])
    scans, refused = [], [refusal for _, refusal in found.refused]
    for series in found.series:
        try:
            scans.append(read_series(series.files, frames=series.frames))
        except Refused as refusal:
            refused.append(refusal)
    return scans, refused


@pytest.mark.parametrize(
    "per_slice",
    [
        lambda n: {"EchoTime": ("2.4549", "2.4551")[n % 2]},
        lambda n: {"EchoTime": "2.46" if n == 7 else "2.45"},
        lambda n: {"ImageType": ["ORIGINAL", "PRIMARY", "M", *([""] * (n % 2))]},
        lambda n: {"EchoTime": "5", **({"EchoNumbers": "1"} if n % 2 else {})},
    ],
    ids=["rounding of the echo time", "echo time of the end", "empty image type", "number of the echo"],
)  # fmt: skip
def test_a_wobbling_key_takes_no_slice_from_its_series(per_slice, tmp_path):
    scans, refused = one_series(tmp_path, per_slice)
    assert [scan.n_files for scan in scans] == [8]
    assert not refused


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"SOPClassUID": CT}, "DCM-MIXED"),
        ({"ImageOrientationPatient": ["1", "0.0022", "0", "-0.0022", "1", "0"]}, "DCM-MIXED"),
        ({"PatientID": "P2", "StudyInstanceUID": "1.2.3"}, "DCM-UID-COLLISION"),
        ({"SeriesNumber": "5"}, "DCM-MIXED"),
        ({"RescaleType": "US"}, "DCM-MIXED"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "DCM-MIXED"),
    ],
    ids=["class", "orientation", "patient", "number", "units", "photometric"],
)
@pytest.mark.parametrize("others", [{7}, {4, 5, 6, 7}], ids=["end", "half"])
def test_what_no_series_may_have_different_refuses_all_of_it(tags, code, others, tmp_path):
    series = {"RescaleType": "HU", "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}
    scans, refused = one_series(tmp_path, lambda n: series | (tags if n in others else {}))
    assert not scans
    assert {refusal.code for refusal in refused} == {code}


@pytest.mark.parametrize("word", ["NORM", "DIS2D"])
def test_two_halves_that_a_word_sets_apart_are_no_two_stacks(word, tmp_path):
    kinds = ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "M", word]
    scans, refused = one_series(
        tmp_path, lambda n: {"ImageType": kinds[n % 2]}, SpacingBetweenSlices="3"
    )
    assert not scans
    assert [refusal.code for refusal in refused] == ["DCM-TORN"] * 2


def test_numbers_that_two_kinds_of_image_share_do_not_make_halves_of_them(tmp_path):
    common = {
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": "1.2",
        "SpacingBetweenSlices": "3",
    }
    for number, kind in enumerate("MP"):
        write_series(
            tmp_path / kind, *phantom(seed=number), ImageType=["ORIGINAL", "PRIMARY", kind],
            per_slice=lambda n, k=number: {"InstanceNumber": 2 * n + k}, **common,
        )  # fmt: skip
    scans, refused = found_in(tmp_path)
    assert [scan.n_files for scan in scans] == [7, 7]
    assert not refused


def test_two_echoes_remain_two_scans(tmp_path):
    uid = generate_uid()
    for echo in ("4.92", "7.38"):
        common = {"SeriesInstanceUID": uid, "StudyInstanceUID": "1.2", "EchoTime": echo}
        write_series(tmp_path / echo, *phantom(seed=int(echo[0])), **common)
    scans, refused = found_in(tmp_path)
    assert sorted(scan.echo_time_ms for scan in scans) == [4.92, 7.38]
    assert not refused


def test_series_without_a_uid_are_told_apart_by_their_number(tmp_path):
    for number in (1, 2):
        write_series(tmp_path / str(number), *phantom(seed=number), SeriesInstanceUID=None, StudyInstanceUID="1.2",
                     SeriesNumber=number, per_slice=lambda n, s=number: {"InstanceNumber": 100 * s + n})  # fmt: skip
    scans, refused = found_in(tmp_path)
    assert [scan.image.shape for scan in scans] == [(7, 6, 5)] * 2
    assert not refused


def volumes(folder, tags, *, n=2, shape=(4, 6, 5)):
    """Write volumes whose voxels are their number; ``tags(volume, slice)`` tells them apart."""
    _, affine = phantom(shape)
    uids = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    files = []
    for t in range(n):
        volume = np.full(shape, t, np.int16)
        volume[:, 0, 0] = np.arange(shape[0]) + 100
        files += write_series(
            folder / str(t), volume, affine, per_slice=lambda k, t=t: tags(t, k), **uids
        )
    return files


def order(scan):
    return scan.image.values[:, :, 2, 2].tolist()


@pytest.mark.parametrize("tag", ["DiffusionBValue", "InversionTime", "FlipAngle"])
def test_a_contrast_says_the_volume_where_numbers_say_another(tag, tmp_path):
    def tags(t, k):
        return {tag: (5.0, 20.0)[t], "InstanceNumber": 2 * k + 1 + (t if k % 2 else 1 - t)}

    scan = read_series(volumes(tmp_path, tags))
    assert order(scan) == [[0] * 4, [1] * 4]
    assert (scan.time.basis, scan.time.units) == (tag, "frame")
    assert scan.flags == "time_inferred volume_order_conflict"


def test_a_contrast_that_agrees_with_the_numbers_changes_nothing(tmp_path):
    scan = read_series(
        volumes(tmp_path, lambda t, k: {"DiffusionBValue": 1000.0 - 1000 * t, "InstanceNumber": 4 * t + k})
    )  # fmt: skip
    assert order(scan) == [[0] * 4, [1] * 4]
    assert (scan.time.basis, scan.flags) == ("InstanceNumber", "time_inferred")


def test_contrasts_that_make_no_volumes_are_refused(tmp_path):
    def tags(t, k):
        return {"DiffusionBValue": 1000.0 * (t if k else 0), "InstanceNumber": 4 * t + k}

    with pytest.raises(Refused, match=r"^DCM-MIXED  volumes by InstanceNumber .* DiffusionBValue"):
        read_series(volumes(tmp_path, tags))


def test_the_temporal_position_counts_before_the_trigger_time(tmp_path):
    def tags(t, k):
        return {
            "TemporalPositionIdentifier": t + 1,
            "TriggerTime": str(10 * (t if k % 2 else 1 - t)),
            "InstanceNumber": 4 * t + k,
        }

    scan = read_series(volumes(tmp_path, tags))
    assert order(scan) == [[0] * 4, [1] * 4]
    assert scan.flags == "volume_order_conflict"


def test_tags_that_disagree_about_volumes_are_flagged(tmp_path):
    def tags(t, k):
        second = 50 if (t, k) == (0, 2) else 10 * t + k
        return {"AcquisitionTime": f"1200{second:02d}", "InstanceNumber": 4 * t + k}

    assert "volume_order_conflict" in read_series(volumes(tmp_path, tags)).flags


def test_volumes_of_two_repetition_times_are_no_scan(tmp_path):
    files = volumes(
        tmp_path, lambda t, k: {"RepetitionTime": str(500 + 2500 * t), "InstanceNumber": 4 * t + k}
    )
    with pytest.raises(Refused, match=r"^DCM-MIXED  .*repetition times of 500 to 3000 ms"):
        read_series(files)


def test_what_varies_within_a_scan_is_no_attribute_of_it(tmp_path):
    files = write_series(
        tmp_path, *phantom(), InversionTime="900", FlipAngle="8",
        per_slice=lambda n: {"RepetitionTime": str(800 + n)},
    )  # fmt: skip
    scan = read_series(files)
    assert (scan.inversion_time_ms, scan.flip_angle_deg) == (900, 8)
    assert "repetition_time_ms" not in scan.attrs


@pytest.mark.parametrize("tag", ["TemporalPositionIdentifier", "AcquisitionNumber"])
def test_stacks_between_each_others_slices_are_no_volume(tag, tmp_path):
    with pytest.raises(Refused, match=rf"^DCM-MIXED  .*2 values of {tag}"):
        read_series(
            write_series(
                tmp_path, *phantom((8, 6, 5)), SliceThickness="6", per_slice=lambda n: {tag: n % 2 + 1}
            )
        )  # fmt: skip


def test_odd_and_even_slices_of_two_acquisitions_are_one_volume(tmp_path):
    files = write_series(
        tmp_path, *phantom(), SliceThickness="3", per_slice=lambda n: {"AcquisitionNumber": n % 2 + 1}
    )  # fmt: skip
    assert "flags" not in read_series(files).attrs


def test_phase_images_of_ge_are_a_scan_of_their_own(tmp_path):
    volume, affine = phantom((4, 6, 5))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    for kind in (0, 1):
        for n in range(4):
            dataset = slice_of(
                volume[n] + kind, lps, n, SeriesInstanceUID="1.2.3", StudyInstanceUID="1.2", PatientID="P",
                Manufacturer="GE MEDICAL SYSTEMS", SOPInstanceUID=generate_uid(),
            )  # fmt: skip
            dataset.InstanceNumber = 2 * n + kind
            dataset.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", kind)
            save(dataset, tmp_path / f"{kind}{n}.dcm", syntax=("1.2.840.10008.1.2" if n else None))
    scans, refused = found_in(tmp_path)
    assert [scan.image.shape for scan in scans] == [(4, 6, 5)] * 2
    assert not refused


def test_a_sign_that_nobody_states_and_a_mapping_that_nobody_uses_are_flagged(tmp_path):
    mapping = Dataset()
    mapping.RealWorldValueSlope = 3.0
    volume, affine = phantom(dtype=np.uint16)
    files = write_series(
        tmp_path, volume, affine, PixelRepresentation=None, RealWorldValueMappingSequence=Sequence([mapping])
    )  # fmt: skip
    assert read_series(files).flags == "real_world_values_unused sign_assumed"


@pytest.mark.parametrize("positions", ["close", "beside"])
def test_slices_that_count_as_one_position_say_how_they_lie(positions, tmp_path):
    place = {
        "close": lambda n: ["0", "0", f"{0.009 * n:.3f}"],
        "beside": lambda n: [str(30 * n), "0", "0"],
    }
    files = write_series(
        tmp_path, *phantom((4, 6, 5)),
        per_slice=lambda n: {
            "ImagePositionPatient": place[positions](n),
            "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        },
    )  # fmt: skip
    says = {"close": r"within 0\.0270 mm", "beside": r"up to 90\.000 mm apart in their plane"}
    with pytest.raises(Refused, match=rf"^DCM-TOO-FEW  .*{says[positions]}"):
        read_series(files)


JPEG_2000, JPEG_LS = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"


def compressed(folder, syntax, encode, values, **tags):
    """Write slices with streams as `encode` makes them, whatever the header says."""
    folder.mkdir(exist_ok=True)
    _, affine = phantom()
    files = []
    for n, pixels in enumerate(values):
        dataset = slice_of(pixels, affine, n, SeriesInstanceUID="1.2.3", **tags)
        frames = encode(pixels)
        dataset.PixelData = encapsulate(frames if isinstance(frames, list) else [frames])
        dataset["PixelData"].VR = "OB"
        save_as(dataset, folder / f"{n}.dcm", syntax)
        files.append(folder / f"{n}.dcm")
    return files


def save_as(dataset, path, syntax):
    dataset.ensure_file_meta()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.save_as(path, enforce_file_format=True)


def jpeg_2000(dtype, bits):
    return lambda pixels: imagecodecs.jpeg2k_encode(
        pixels.astype(dtype), level=0, reversible=True, codecformat="J2K", bitspersample=bits
    )


@pytest.mark.parametrize(
    ("signed", "stream", "bits", "stored"),
    [(1, "u2", 13, 16), (1, "u2", 12, 12), (1, "u2", 16, 16), (0, "i2", 16, 16), (0, "i2", 13, 12), (0, "i2", 13, 16)],
)  # fmt: skip
def test_the_sign_of_a_jpeg_2000_stream_follows_the_header_as_in_pydicom(
    signed, stream, bits, stored, tmp_path
):
    rng = np.random.default_rng(0)
    low, high = (0, 2**bits) if stream == "u2" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    values = rng.integers(low, high, (3, 16, 20)).astype(stream)
    files = compressed(
        tmp_path, JPEG_2000, jpeg_2000(stream, bits), values,
        PixelRepresentation=signed, BitsStored=stored, HighBit=stored - 1,
    )  # fmt: skip
    scan = read_series(files)
    # For signed streams pydicom's own correction takes the bits as they are; pillow, which it asks here, shifts them before.
    oracle = np.stack([pixel_array(path) for path in files]) if signed else values.astype("u2")
    if not signed:
        oracle &= (1 << bits) - 1
    if stored < 16:  # bits above those stored are nobody's
        oracle = (
            (oracle << (16 - stored)) >> (16 - stored) if signed else oracle & (1 << stored) - 1
        )
    assert sorted(scan.image.values.ravel()) == sorted(oracle.ravel())


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEG_LS, lambda pixels: imagecodecs.jpegls_encode(np.ascontiguousarray(pixels.T))),
        (JPEG_LS, lambda pixels: [imagecodecs.jpegls_encode(pixels)] * 2),
        (JPEG_2000, lambda pixels: [jpeg_2000("u2", 12)(pixels)] * 2),
    ],
    ids=["rows for columns", "two images", "two images of JPEG 2000"],
)
def test_a_stream_of_another_size_and_one_image_too_many_are_refused(syntax, encode, tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (3, 16, 20)).astype("u2")
    files = compressed(tmp_path, syntax, encode, values, BitsStored=12, HighBit=11)
    with pytest.raises(Refused, match=r"^DCM-PIXELS  .*, expected (16 x 20|1),"):
        read_series(files)
