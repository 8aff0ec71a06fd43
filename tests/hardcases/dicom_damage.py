"""D33, D35, D36, D41-D43: files that are damaged, cut short, packed whole, or lie about their size."""

import struct
import zlib

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, get_frame

from hardcases import phantom
from hardcases.dicom_pixels import IMPLICIT, rewrite
from hardcases.dicom_stacks import interpolated, linear, write
from hardcases.truth import Refusal, Truth, case

DEFLATED = "1.2.840.10008.1.2.1.99"


def _damaged(title, syntax, damage):
    def make(folder):
        affine = phantom.grid("LPS")
        files, _ = write(folder, affine, dtype=np.uint16, syntax=syntax)

        def change(dataset):
            frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
            dataset.PixelData = encapsulate([bytes(damage(frame))])
            dataset["PixelData"].is_undefined_length = True

        rewrite(files[6], change)
        return Truth(refused=[Refusal(("DCM-PIXELS",), (files[6],))])

    return case("D33", title)(make)


def _half(frame):
    return frame[: len(frame) // 4 * 2]


def _no_head(frame):
    frame[2:40] = bytes(38)
    return frame


DAMAGED = (
    _damaged("half an RLE frame", "1.2.840.10008.1.2.5", _half),
    _damaged("half a JPEG 2000 frame", "1.2.840.10008.1.2.4.90", _half),
    _damaged("half a JPEG-LS frame", "1.2.840.10008.1.2.4.80", _half),
    _damaged("half a lossless JPEG frame", "1.2.840.10008.1.2.4.70", _half),
    _damaged("a JPEG 2000 frame without its head", "1.2.840.10008.1.2.4.90", _no_head),
    _damaged("a JPEG-LS frame without its head", "1.2.840.10008.1.2.4.80", _no_head),
    _damaged("a lossless JPEG frame without its head", "1.2.840.10008.1.2.4.70", _no_head),
)


@case("D33", "a compressed frame of another size than its header says")
def other_size(folder):
    affine = phantom.grid("LPS")
    files, _ = write(folder, affine, dtype=np.uint16, syntax="1.2.840.10008.1.2.4.90")

    def change(dataset):
        dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows

    for path in files:
        rewrite(path, change)
    return Truth(refused=[Refusal(("DCM-PIXELS",), (tuple(files),))])


def deflate(path):
    """Turn a file into the deflated transfer syntax."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DEFLATED
    dataset.save_as(path, enforce_file_format=True)


@case("D35", "deflated")
def deflated(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    for path in files:
        deflate(path)
    return Truth(scans=[scan])


def _swap_deflated(path, content):
    """Put other bytes behind the file meta information of a deflated file."""
    deflate(path)
    meta = pydicom.filereader.read_file_meta_info(path)
    head = path.read_bytes()[: 132 + 12 + meta.FileMetaInformationGroupLength]
    path.write_bytes(head + content)


@case("D35", "a deflated file cut short")
def deflated_short(folder):
    files, _ = write(folder, phantom.grid("LPS"))
    for path in files:
        deflate(path)
    files[9].write_bytes(files[9].read_bytes()[:-60])
    return Truth(refused=[Refusal(("DCM-TRUNCATED",), (files[9],))])


def _bomb(size):
    """Deflated data set of one private element of `size` zeros, some millionths of it long."""
    packer = zlib.compressobj(9, wbits=-15)
    head = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, size)
    parts = [packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)]
    block = bytes(1 << 24)
    packer.compress(block)
    packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush the same zeros give the same bytes: they are packed once.
    again = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"".join([*parts, again * (size >> 24)]) + zlib.compressobj(9, wbits=-15).flush()


@case("D35", "a deflated file that unfolds to two gigabytes", slow=True)
def deflate_bomb(folder):
    files, _ = write(folder, phantom.grid("LPS"))
    path = files[4]
    deflate(path)
    length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    path.write_bytes(path.read_bytes()[: 132 + 12 + length] + _bomb(1 << 31))
    return Truth(refused=[Refusal(("DCM-BOMB",), (path,)), Refusal(BESIDE, ())])


@case("D36", "no preamble")
def no_preamble(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    for path in files:
        path.write_bytes(path.read_bytes()[132:])
    return Truth(scans=[scan])


def _raw_implicit(folder):
    files, scan = write(folder, phantom.grid("LPS"), syntax=IMPLICIT)
    for path in files:
        length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
        path.write_bytes(path.read_bytes()[132 + 12 + length :])
    return files, scan


@case("D36", "implicit VR without file meta information")
def raw_implicit(folder):
    files, scan = _raw_implicit(folder)
    return Truth(refused=[Refusal(("DCM-NO-META",), (tuple(files),))], also=[[scan]])


@case("D36", "implicit VR without file meta information, accepted", accept=["DCM-NO-META"])
def raw_implicit_accepted(folder):
    _, scan = _raw_implicit(folder)
    return Truth(scans=[scan])


def _cut(path, n):
    path.write_bytes(path.read_bytes()[:-n])


@case("D41", "pixels of the last slice cut short")
def pixels_cut(folder):
    files, _ = write(folder, phantom.grid("LPS"))
    _cut(files[9], 100)
    return Truth(refused=[Refusal(("DCM-TRUNCATED",), (files[9],))])


BESIDE = ("DCM-BESIDE-DAMAGE",)
"""A series beside a file that may be one of its slices and cannot be read."""


@case("D41", "an empty file in the middle of a series")
def empty_middle(folder):
    affine = phantom.grid("LPS")
    files, scan = write(folder, affine, linear(affine))
    files[4].write_bytes(b"")
    refused = [Refusal(("SRC-EMPTY",), (files[4],)), Refusal(BESIDE, ())]
    return Truth(refused=refused, also=[[interpolated(scan)]])


@case("D41", "an empty file at the end of a series")
def empty_end(folder):
    files, _ = write(folder, phantom.grid("LPS"))
    files[9].write_bytes(b"")
    return Truth(refused=[Refusal(("SRC-EMPTY",), (files[9],)), Refusal(BESIDE, (files[9],))])


@case("D41", "pixels that never came")
def pixels_missing(folder):
    files, _ = write(folder, phantom.grid("LPS"))

    def change(dataset):
        del dataset.PixelData

    rewrite(files[9], change)
    return Truth(refused=[Refusal(("DCM-HEADER",), (files[9],))])


@case("D42", "a header cut short in the middle of a series")
def header_cut(folder):
    affine = phantom.grid("LPS")
    files, scan = write(folder, affine, linear(affine))
    files[4].write_bytes(files[4].read_bytes()[:500])
    refused = [Refusal(("DCM-HEADER",), (files[4],)), Refusal(BESIDE, ())]
    return Truth(refused=refused, also=[[interpolated(scan)]])


@case("D42", "a header cut short at the end of a series")
def header_cut_end(folder):
    files, _ = write(folder, phantom.grid("LPS"))
    files[9].write_bytes(files[9].read_bytes()[:500])
    return Truth(refused=[Refusal(("DCM-HEADER",), (files[9],)), Refusal(BESIDE, (files[9],))])


@case("D43", "Rows and Columns claim more than there is")
def claims(folder):
    files, _ = write(folder, phantom.grid("LPS"))

    def change(dataset):
        dataset.Rows = dataset.Columns = 65535

    for path in files:
        rewrite(path, change)
    return Truth(refused=[Refusal(("DCM-TOO-LARGE",), (tuple(files),))])


@case("D43", "Columns claims less than there is, which would shear the image")
def claims_less(folder):
    files, _ = write(folder, phantom.grid("LPS"))

    def change(dataset):
        dataset.Columns = 13

    for path in files:
        rewrite(path, change)
    return Truth(refused=[Refusal(("DCM-PIXELS",), (tuple(files),))])


@case("D43", "NumberOfFrames claims more than there is")
def claims_frames(folder):
    files, _ = write(folder, phantom.grid("LPS"))

    def change(dataset):
        dataset.NumberOfFrames = 4000

    for path in files:
        rewrite(path, change)
    return Truth(refused=[Refusal(("DCM-MULTIFRAME",), (tuple(files),))])
