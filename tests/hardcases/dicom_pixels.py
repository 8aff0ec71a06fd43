"""D28-D32, D34: how the values of pixels are packed, scaled and compressed."""

from dataclasses import replace

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from series import CT

from hardcases import phantom
from hardcases.dicom_stacks import write
from hardcases.truth import Refusal, Truth, case

PET = "1.2.840.10008.5.1.4.1.1.128"
IMPLICIT = "1.2.840.10008.1.2"
MPEG2 = "1.2.840.10008.1.2.4.100"


def rewrite(path, change):
    """Apply `change` to the data set of a file."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)


def set_raw(words):
    """Give a change that stores `words` as the pixels."""

    def change(dataset):
        dataset.PixelData = np.ascontiguousarray(words).tobytes()

    return change


PHILIPS = {"RescaleSlope": "1.8", "RescaleIntercept": "-36"}
SCALE_SLOPE = 0.0064


def philips(folder, affine, *, scale=SCALE_SLOPE, varies=0.0, **options):
    """Write a Philips series with the public rescale for display and the private one for precise values."""
    files, scan = write(
        folder,
        affine,
        dtype=np.uint16,
        Manufacturer="Philips Medical Systems",
        **PHILIPS,
        **options,
    )

    for n, path in enumerate(files):

        def add_private(dataset, n=n):
            block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
            block.add_new(0x0D, "FL", -36.0)
            block.add_new(0x0E, "FL", scale * (1 + varies * n))

        rewrite(path, add_private)
    shown = scan.values * 1.8 - 36
    slopes = scale * (1 + varies * np.arange(len(files)).reshape(-1, 1, 1))
    precise = replace(scan, values=shown / (1.8 * slopes))
    return files, replace(scan, values=shown, dtype="uint16"), precise


@case("D28", "Philips scaling, public by default")
def philips_public(folder):
    _, shown, precise = philips(folder, phantom.grid("LPS"))
    return Truth(scans=[shown], also=[[precise]])


@case("D28", "Philips scaling, precise", philips_precise=True)
def philips_precise(folder):
    _, shown, precise = philips(folder, phantom.grid("LPS"))
    return Truth(scans=[replace(precise, dtype=None)], also=[[shown]])


@case("D28", "Philips scaling whose private slope differs from slice to slice")
def philips_varies(folder):
    _, shown, precise = philips(folder, phantom.grid("LPS"), varies=0.01)
    scan = replace(shown, flags=frozenset({"philips_scale_varies"}))
    return Truth(scans=[scan], also=[[precise]])


@case("D28", "Philips scaling whose public slope differs from slice to slice")
def philips_per_slice(folder):
    slopes = [1.8 + 0.01 * n for n in range(10)]
    _, scan = write(
        folder, phantom.grid("LPS"), dtype=np.uint16, Manufacturer="Philips Medical Systems",
        per_slice=lambda n: {"RescaleSlope": f"{slopes[n]:.2f}", "RescaleIntercept": "0"},
    )  # fmt: skip
    values = scan.values * np.reshape(slopes, (-1, 1, 1))
    return Truth(scans=[replace(scan, values=values, dtype="float32")])


@case("D29", "PET slope differs per slice")
def pet(folder):
    slopes = [0.73 + 0.11 * n for n in range(10)]
    _, scan = write(
        folder, phantom.grid("LPS"), SOPClassUID=PET, Modality="PT", Units="BQML",
        per_slice=lambda n: {"RescaleSlope": f"{slopes[n]:.2f}", "RescaleIntercept": "0"},
    )  # fmt: skip
    values = scan.values * np.reshape(slopes, (-1, 1, 1))
    return Truth(scans=[replace(scan, values=values, dtype="float32", units="Bq/ml")])


@case("D29", "CT with one rescale")
def ct(folder):
    _, scan = write(
        folder, phantom.grid("LPS"), dtype=np.uint16, SOPClassUID=CT, Modality="CT", RescaleSlope="1",
        RescaleIntercept="-1024", RescaleType="HU",
    )  # fmt: skip
    return Truth(scans=[replace(scan, values=scan.values - 1024, units="HU")])


@case("D29", "RescaleSlope is negative")
def slope_negative(folder):
    _, scan = write(folder, phantom.grid("LPS"), RescaleSlope="-2", RescaleIntercept="4095")
    flags = frozenset({"negative_slope"})
    return Truth(scans=[replace(scan, values=4095 - 2 * scan.values, flags=flags)])


def _table(folder):
    """Write a series whose values pass through a table, 5 and twice the stored number."""
    files, scan = write(folder, phantom.grid("LPS"), dtype=np.uint16)
    table = (2 * np.arange(4096) + 5).astype(np.uint16)

    def change(dataset):
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [4096, 0, 16])
        item.ModalityLUTType = "US"
        item.add_new("LUTData", "OW", table.tobytes())
        dataset.ModalityLUTSequence = Sequence([item])

    for path in files:
        rewrite(path, change)
    return files, replace(scan, values=2 * scan.values + 5, dtype="float32")


@case("D29", "values that pass through a table")
def modality_table(folder):
    files, scan = _table(folder)
    return Truth(refused=[Refusal(("DCM-LUT",), (tuple(files),))], also=[[scan]])


@case("D29", "values that pass through a table, accepted", accept=["DCM-LUT"])
def modality_table_accepted(folder):
    _, scan = _table(folder)
    return Truth(scans=[scan])


@case("D29", "RescaleSlope is zero")
def slope_zero(folder):
    files, _ = write(folder, phantom.grid("LPS"), RescaleSlope="0", RescaleIntercept="5")
    return Truth(refused=[Refusal(("DCM-SLOPE",), (tuple(files),))])


TWELVE = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}


@case("D30", "12 bits stored, junk in the high bits")
def dirty_bits(folder):
    files, scan = write(folder, phantom.grid("LPS"), dtype=np.uint16, **TWELVE)
    for n, path in enumerate(files):
        words = scan.values[n].astype(np.uint16)
        junk = (np.arange(words.size, dtype=np.uint16).reshape(words.shape) % 16) << 12
        rewrite(path, set_raw(words | junk))
    return Truth(scans=[scan])


@case("D30", "12 bits signed, no sign extension")
def signed_twelve(folder):
    affine = phantom.grid("LPS")
    values = phantom.fill(affine) - 2200
    files, scan = write(folder, affine, values, PixelRepresentation=1, **TWELVE)
    for n, path in enumerate(files):
        rewrite(path, set_raw(values[n].astype(np.int16).view(np.uint16) & 0x0FFF))
    return Truth(scans=[scan])


@case("D30", "an overlay in the high bits")
def overlay(folder):
    files, scan = write(folder, phantom.grid("LPS"), dtype=np.uint16, **TWELVE)
    for n, path in enumerate(files):
        words = scan.values[n].astype(np.uint16)
        ring = np.zeros_like(words)
        ring[3:6, 2:9] = 1 << 15
        rewrite(path, set_raw(words | ring))
    return Truth(scans=[scan])


@case("D30", "HighBit does not fit BitsStored")
def high_bit(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), dtype=np.uint16, BitsAllocated=16, BitsStored=12, HighBit=15
    )
    return Truth(refused=[Refusal(("DCM-BITS",), (tuple(files),))])


@case("D30", "8-bit pixels with an odd number of bytes")
def odd_bytes(folder):
    shape = (10, 11, 13)
    affine = phantom.grid("LPS", shape=shape)
    values = phantom.fill(affine, shape) // 16
    _, scan = write(folder, affine, values, dtype=np.uint8)
    return Truth(scans=[scan])


def _white_is_low(folder):
    files, scan = write(
        folder, phantom.grid("LPS"), dtype=np.uint16, SOPClassUID=CT, Modality="CT", RescaleSlope="1",
        RescaleIntercept="-1024", PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    flags = frozenset({"monochrome1"})
    return files, replace(scan, values=scan.values - 1024, units="HU", flags=flags)


@case("D31", "MONOCHROME1")
def monochrome1(folder):
    files, scan = _white_is_low(folder)
    return Truth(refused=[Refusal(("DCM-MONOCHROME1",), (tuple(files),))], also=[[scan]])


@case("D31", "MONOCHROME1, accepted", accept=["DCM-MONOCHROME1"])
def monochrome1_accepted(folder):
    _, scan = _white_is_low(folder)
    return Truth(scans=[replace(scan, attrs={"accepted": "DCM-MONOCHROME1"})])


def _compressed(syntax, dtype, tags):
    def make(folder):
        affine = phantom.grid("LPS")
        values = phantom.fill(affine)
        if np.dtype(dtype).itemsize == 1:
            values = values // 16
        if np.dtype(dtype).kind == "i":
            values = values - 2200
        _, scan = write(folder, affine, values, dtype=dtype, syntax=syntax, **tags)
        return Truth(scans=[scan])

    return make


LOSSLESS = tuple(
    case("D32", title)(_compressed(syntax, dtype, tags))
    for title, syntax, dtype, tags in (
        ("RLE", "1.2.840.10008.1.2.5", np.uint16, {}),
        ("RLE, signed", "1.2.840.10008.1.2.5", np.int16, {}),
        ("JPEG 2000 lossless", "1.2.840.10008.1.2.4.90", np.uint16, {}),
        ("JPEG 2000 lossless, signed", "1.2.840.10008.1.2.4.90", np.int16, {}),
        ("HTJ2K lossless", "1.2.840.10008.1.2.4.201", np.uint16, {}),
        ("JPEG-LS lossless", "1.2.840.10008.1.2.4.80", np.uint16, {}),
        ("JPEG-LS lossless, 8 bits", "1.2.840.10008.1.2.4.80", np.uint8, {}),
        ("JPEG lossless SV1", "1.2.840.10008.1.2.4.70", np.uint16, {}),
    )
)


def _encapsulated(folder, syntax, encode, dtype=np.uint16, **tags):
    """Write a series whose every frame is `encode(pixels)`."""
    affine = phantom.grid("LPS")
    values = phantom.fill(affine)
    if np.dtype(dtype).itemsize == 1:
        values = values // 16
    if np.dtype(dtype).kind == "i":
        values = values - 2200
    files, scan = write(folder, affine, values, dtype=dtype, **tags)
    for n, path in enumerate(files):
        frame = encode(values[n].astype(dtype))

        def change(dataset, frame=frame):
            dataset.PixelData = encapsulate([frame])
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = syntax

        rewrite(path, change)
    return files, scan


def _encode_lossless(pixels):
    import imagecodecs

    return imagecodecs.ljpeg_encode(pixels.view("u2"))  # the format knows no sign


def _encode_j2k_lossy(pixels):
    import imagecodecs

    return imagecodecs.jpeg2k_encode(pixels, level=90, codecformat="j2k")


def _encode_jls_near(pixels):
    from jpeg_ls import encode_array

    return bytes(encode_array(pixels, lossy_error=2))


def _encode_baseline(pixels):
    import imagecodecs

    return imagecodecs.jpeg8_encode(pixels, level=98)


def _encode_extended(pixels):
    import imagecodecs

    return imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=12)


@case("D32", "JPEG lossless, any predictor")
def jpeg_57(folder):
    _, scan = _encapsulated(folder, "1.2.840.10008.1.2.4.57", _encode_lossless)
    return Truth(scans=[scan])


@case("D32", "JPEG lossless SV1, signed")
def jpeg_signed(folder):
    _, scan = _encapsulated(folder, "1.2.840.10008.1.2.4.70", _encode_lossless, np.int16)
    return Truth(scans=[scan])


def _lossy(title, syntax, encode, dtype, tolerance):
    def make(folder):
        _, scan = _encapsulated(
            folder,
            syntax,
            encode,
            dtype,
            LossyImageCompression="01",
            LossyImageCompressionRatio="8",
        )
        return Truth(scans=[replace(scan, tolerance=tolerance, flags=frozenset({"lossy_source"}))])

    return case("D32", title)(make)


LOSSY = (
    _lossy("JPEG 2000, lossy", "1.2.840.10008.1.2.4.91", _encode_j2k_lossy, np.uint16, 6),
    _lossy("JPEG-LS, near lossless", "1.2.840.10008.1.2.4.81", _encode_jls_near, np.uint16, 2),
    _lossy("JPEG baseline", "1.2.840.10008.1.2.4.50", _encode_baseline, np.uint8, 4),
    _lossy("JPEG extended, 12 bits", "1.2.840.10008.1.2.4.51", _encode_extended, np.uint16, 12),
)


@case("D32", "a syntax that nobody decodes")
def mpeg(folder):
    files, _ = _encapsulated(folder, MPEG2, lambda pixels: b"\x00\x00\x01\xb3" + b"\x00" * 60)
    return Truth(
        refused=[Refusal(("DCM-SYNTAX",), (tuple(files),), says=MPEG2.replace(".", r"\."))]
    )


@case("D32", "a syntax that is no syntax")
def unknown_syntax(folder):
    files, _ = _encapsulated(folder, "1.2.3.4.5", lambda pixels: b"\x00" * 64)
    return Truth(refused=[Refusal(("DCM-SYNTAX",), (tuple(files),))])


@case("D34", "big endian")
def big_endian(folder):
    _, scan = write(folder, phantom.grid("LPS"), syntax="1.2.840.10008.1.2.2")
    return Truth(scans=[scan])


@case("D34", "implicit VR little endian")
def implicit(folder):
    _, scan = write(folder, phantom.grid("LPS"), syntax=IMPLICIT)
    return Truth(scans=[scan])
