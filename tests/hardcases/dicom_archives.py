"""D39: in what slices come packed."""

import io
import tarfile
import zipfile

from hardcases import phantom
from hardcases.dicom_stacks import write
from hardcases.truth import Refusal, Truth, case

EVIL = ("../outside.dcm", "/tmp/outside-of-the-archive.dcm", "a/../../outside.dcm")


def _packed(folder):
    """Content of a series' files, and its scan; the folder is left empty."""
    files, scan = write(folder, phantom.grid("LPS"))
    content = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    return content, scan


@case("D39", "a zip")
def zipped(folder):
    content, scan = _packed(folder)
    with zipfile.ZipFile(folder / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n, data in enumerate(content):
            archive.writestr(f"study/series/im{n}.dcm", data)
        archive.writestr("study/readme.txt", "slices")
    return Truth(scans=[scan], skipped=1)


def _tarred(folder, name, mode):
    content, scan = _packed(folder)
    with tarfile.open(folder / name, mode) as archive:
        for n, data in enumerate(content):
            entry = tarfile.TarInfo(f"study/im{n}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return Truth(scans=[scan])


@case("D39", "a tar")
def tarred(folder):
    return _tarred(folder, "study.tar", "w")


@case("D39", "a gzipped tar")
def tarred_gzip(folder):
    return _tarred(folder, "study.tar.gz", "w:gz")


@case("D39", "a tar in bzip2")
def tarred_bzip2(folder):
    return _tarred(folder, "study.tar.bz2", "w:bz2")


@case("D39", "a tar in xz")
def tarred_xz(folder):
    return _tarred(folder, "study.tar.xz", "w:xz")


@case("D39", "a zip in a zip")
def nested(folder):
    content, scan = _packed(folder)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("im.dcm", content[0])
    with zipfile.ZipFile(folder / "study.zip", "w") as archive:
        for n, data in enumerate(content):
            archive.writestr(f"im{n}.dcm", data)
        archive.writestr("inner.zip", inner.getvalue())
    return Truth(scans=[scan], skipped=1)


@case("D39", "a zip with a password")
def encrypted(folder):
    content, _ = _packed(folder)
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n, data in enumerate(content):
            archive.writestr(f"im{n}.dcm", data)
    raw = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = -1
        while (start := raw.find(mark, start + 1)) >= 0:
            raw[start + flags] |= 1
    path.write_bytes(raw)
    return Truth(refused=[Refusal(("ARC-ENCRYPTED",), (path,))])


@case("D39", "a zip of zeros, a thousand times as large as itself", slow=True)
def bomb(folder):
    path = folder / "study.zip"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("im.dcm", "w") as member,
    ):
        for _ in range(1100):
            member.write(bytes(1 << 20))
    return Truth(refused=[Refusal(("ARC-BOMB",), (path,))])


@case("D39", "a zip whose names lead out of it")
def zip_slip(folder):
    content, scan = _packed(folder)
    names = [*EVIL, *(f"im{n}" for n in range(len(EVIL), len(content)))]
    with zipfile.ZipFile(folder / "study.zip", "w") as archive:
        for name, data in zip(names, content, strict=True):
            archive.writestr(name, data)
    outside = [folder.parent / "outside.dcm", folder / "outside.dcm"]
    return Truth(scans=[scan], outside=outside)


@case("D39", "a tar with a link out of it")
def tar_link(folder):
    content, scan = _packed(folder)
    with tarfile.open(folder / "study.tar", "w") as archive:
        link = tarfile.TarInfo("im")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret"
        archive.addfile(link)
        for n, data in enumerate(content):
            entry = tarfile.TarInfo(f"im/{n}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return Truth(scans=[scan], skipped=1, outside=[folder.parent / "secret"])


@case("D39", "a zip cut short")
def zip_cut(folder):
    content, _ = _packed(folder)
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n, data in enumerate(content):
            archive.writestr(f"im{n}", data)
    path.write_bytes(path.read_bytes()[:-400])
    return Truth(refused=[Refusal(("ARC-DAMAGED",), (path,))])


@case("D39", "a zip with one damaged member")
def zip_damaged(folder):
    content, _ = _packed(folder)
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n, data in enumerate(content):
            archive.writestr(f"im{n}", data)
        start = archive.getinfo("im9").header_offset
    raw = bytearray(path.read_bytes())
    raw[start + 700] ^= 0xFF
    path.write_bytes(raw)
    return Truth(refused=[Refusal(("ARC-DAMAGED",), (path,))])
