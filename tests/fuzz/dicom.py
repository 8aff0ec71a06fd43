"""Ways to damage a DICOM file: what an element says, how long it says it is, where it stands."""

import struct

import numpy as np
from pydicom.uid import AllTransferSyntaxes

from fuzz.packing import BOMB_BYTES, bomb, deflated_meta
from fuzz.seeds import END, ITEM, LONG, PIXELS, SYNTAXES, Element, Seed, seeds

Rng = np.random.Generator

NUMBERS = (
    b"", b"0", b"-0", b"1", b"2", b"3", b"-1", b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e400", b"1e-320", b"1e20",
    b"99999999999999999999999999999999", b"2147483648", b"1.5", b"0x10", b"1_000", b"1,5", b" 7 ", b"abc", b"\xb2",
    b"9" * 5000, b"1" + b"\\1" * 3000, b"1\\2", b"1\\2\\3", b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\1\\0\\0", b"nan\\nan\\nan",
    b"1e300\\1e300\\1e300", b"-1e-300\\0\\0\\0\\1\\0", b"\\\\\\\\", b"1e5\\1e5", b"1e-9\\1e-9", b"{0}", b"{}", b"%s",
)  # fmt: skip
WORDS = (
    b"", b"\\", b"MOSAIC", b"ORIGINAL\\PRIMARY\\LOCALIZER", b"DERIVED\\SECONDARY\\MPR", b"MONOCHROME1", b"RGB",
    b"YBR_FULL_422", b"PALETTE COLOR", b"YES", b"{0}{1}{2}", b"{x.y}", b"\xff\xfe\xfd", b"\x1b$B\x1b(J", b"A" * 60_000,
    b"ISO 2022 IR 87\\ISO 2022 IR 13", b"ISO_IR 192", b"NO SUCH SET", b"\0\0\0", b"240000.", b"99999999", b"12\xb2456",
)  # fmt: skip
SHORTS = (0, 1, 2, 3, 7, 8, 9, 12, 16, 17, 24, 32, 64, 255, 256, 0x7FFF, 0x8000, 0xFFFF)
LENGTHS = (0, 1, 2, 3, 8, 0x7FFF, 0xFFFF, 0xFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
FLOATS = (0.0, np.nan, np.inf, -1e38, 1e-40)
CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.1.3.10",
    "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.7", "1.2..3", "9" * 200,
)  # fmt: skip
STRANGERS = (
    (0x00280008, "IS"), (0x00080005, "CS"), (0x00280006, "US"), (0x00200105, "IS"), (0x00181060, "DS"),
    (0x00280034, "IS"), (0x00283000, "SQ"), (0x00280301, "CS"), (0x00080008, "CS"), (0x00020010, "UI"),
    (0x7FE00008, "OF"), (0x7FE00009, "OD"), (0x0018A001, "SQ"), (0x2005100E, "FL"), (0x0019100A, "US"),
    (0x00291010, "OB"), (0x52009230, "SQ"), (0xFFFEE00D, "UN"), (0xFFFEE000, "UN"), (PIXELS, "OW"),
)  # fmt: skip
"""Elements that change how pixels or texts are read."""


def one(rng: Rng, pool):
    """Any of the pool."""
    return pool[int(rng.integers(len(pool)))]


def _element(seed: Seed, tag: int, vr: str, value: bytes, *, length: int | None = None) -> bytes:
    """Bytes of an element of that file; the length may lie."""
    n = (len(value) if length is None else length) & 0xFFFFFFFF
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if seed.implicit and tag >> 16 != 2:
        return head + struct.pack("<I", n) + value
    code = vr.encode("latin-1")
    if vr in LONG:
        return head + code + b"\0\0" + struct.pack("<I", n) + value
    return head + code + struct.pack("<H", n & 0xFFFF) + value


def _chosen(rng: Rng, seed: Seed) -> Element:
    """An element, more often than not one that readers look at."""
    looked = [e for e in seed.elements if e.tag.group in (2, 0x18, 0x20, 0x28, 0x5200, 0x7FE0)]
    return one(rng, looked if looked and rng.random() < 0.8 else seed.elements)


def _replaced(seed: Seed, e: Element, new: bytes) -> bytes:
    return seed.data[: e.start] + new + seed.data[e.end :]


def _insert(seed: Seed, tag: int, new: bytes) -> bytes:
    """Put bytes where the element would stand."""
    place = next((e.start for e in seed.elements if e.tag >= tag), len(seed.data))
    return seed.data[:place] + new + seed.data[place:]


def _find(seed: Seed, tag: int) -> Element | None:
    return next((e for e in seed.elements if e.tag == tag), None)


def _hostile(rng: Rng, vr: str) -> bytes:
    """A value that an element of this kind should not have."""
    if vr in ("US", "SS"):
        count = int(rng.choice([1, 1, 1, 0, 2, 9]))
        return b"".join(struct.pack("<H", one(rng, SHORTS)) for _ in range(count))
    if vr in ("UL", "SL", "AT"):
        return struct.pack("<I", one(rng, LENGTHS))
    if vr in ("FL", "FD"):
        return struct.pack("<f" if vr == "FL" else "<d", one(rng, FLOATS))
    if vr in ("IS", "DS"):
        return one(rng, NUMBERS)
    if vr == "UI":
        return one(rng, (*CLASSES, *AllTransferSyntaxes)).encode()
    if vr in LONG:
        return rng.bytes(int(rng.integers(0, 200)))
    return one(rng, WORDS if rng.random() < 0.7 else NUMBERS)


def hostile_value(rng: Rng, seed: Seed) -> bytes:
    """One element says something impossible."""
    e = _chosen(rng, seed)
    return _replaced(seed, e, _element(seed, e.tag, e.vr, _hostile(rng, e.vr)))


def hostile_length(rng: Rng, seed: Seed) -> bytes:
    """One element is not as long as it says."""
    e = _chosen(rng, seed)
    real = e.end - e.value
    length = int(one(rng, (*LENGTHS, real + 1, real + 2, max(real - 1, 0), 2 * real)))
    new = _element(seed, e.tag, e.vr, seed.data[e.value : e.end], length=length)
    return _replaced(seed, e, new)


def hostile_kind(rng: Rng, seed: Seed) -> bytes:
    """One element is of another VR, or of none that there is."""
    e = _chosen(rng, seed)
    vr = one(rng, ("US", "DS", "IS", "SQ", "UN", "OB", "FD", "AT", "PN", "UT", "??", "\0\0"))
    value = seed.data[e.value : e.end] if rng.random() < 0.3 else _hostile(rng, vr)
    return _replaced(seed, e, _element(seed, e.tag, vr, value))


def dropped(rng: Rng, seed: Seed) -> bytes:
    """One element is not there."""
    return _replaced(seed, _chosen(rng, seed), b"")


def doubled(rng: Rng, seed: Seed) -> bytes:
    """One element stands twice, the second time anywhere."""
    e, place = _chosen(rng, seed), _chosen(rng, seed).start
    return seed.data[:place] + seed.data[e.start : e.end] + seed.data[place:]


def added(rng: Rng, seed: Seed) -> bytes:
    """An element more, not always in its place."""
    tag, vr = one(rng, STRANGERS)
    new = _element(seed, tag, vr, _hostile(rng, vr))
    return _insert(seed, tag if rng.random() < 0.8 else _chosen(rng, seed).tag, new)


def nested(rng: Rng, seed: Seed) -> bytes:
    """Sequences within sequences."""
    depth, undefined = int(one(rng, (3, 30, 300, 3000))), rng.random() < 0.5
    tag = one(rng, (0x00081140, 0x00091001, 0x52009229, 0x00289145, 0x00283000))
    value = b""
    for _ in range(depth):
        if undefined:
            value = ITEM + b"\xff" * 4 + value + b"\xfe\xff\x0d\xe0\0\0\0\0" + END
            value = _element(seed, tag, "SQ", value, length=0xFFFFFFFF)
        else:
            value = _element(seed, tag, "SQ", ITEM + struct.pack("<I", len(value)) + value)
    return _insert(seed, tag, value[: len(value) // 2] if rng.random() < 0.2 else value)


def crowded(rng: Rng, seed: Seed) -> bytes:
    """Ten thousand small private elements, or one of a megabyte."""
    if rng.random() < 0.5:
        many = (_element(seed, 0x00091000 + n, "LO", b"ab") for n in range(10_000))
        return _insert(seed, 0x00100000, b"".join(many))
    return _insert(seed, 0x00100000, _element(seed, 0x00091001, "UN", bytes(1 << 20)))


def relabelled(rng: Rng, seed: Seed) -> bytes:
    """The pixels are in another transfer syntax than the file says."""
    e = _find(seed, 0x00020010)
    if e is None:
        return hostile_value(rng, seed)
    uid = one(rng, (*SYNTAXES.values(), *AllTransferSyntaxes)).encode()
    return _replaced(seed, e, _element(seed, e.tag, "UI", uid + b"\0" * (len(uid) % 2)))


def huge(rng: Rng, seed: Seed) -> bytes:
    """Rows, columns, frames and bits claim more than there is memory."""
    shorts = {tag: one(rng, (0xFFFF, 0x8000, 512)) for tag in (0x00280010, 0x00280011)}
    shorts[0x00280100] = one(rng, (8, 16, 32, 64))
    claims = {tag: ("US", struct.pack("<H", value)) for tag, value in shorts.items()}
    frames = one(rng, (b"1", b"4", b"65535", b"2147483647", b"99999999999999999999"))
    claims[0x00280008] = ("IS", frames)
    parts, at = [], 0
    for tag, (vr, value) in sorted(claims.items()):
        e = next((e for e in seed.elements if e.tag >= tag), None)
        if e is not None:
            parts += [seed.data[at : e.start], _element(seed, tag, vr, value)]
            at = e.end if e.tag == tag else e.start
    return b"".join(parts) + seed.data[at:]


def hostile_stream(rng: Rng, seed: Seed) -> bytes:
    """The compressed pixels say another size, or their items another length."""
    data = bytearray(seed.data)
    start = seed.header_bytes
    if rng.random() < 0.5:
        # Sizes stand after SIZ (JPEG 2000), SOF3 (lossless), SOF55 (JPEG-LS) and SOF0 (baseline).
        markers = (b"\xff\x51", b"\xff\xc3", b"\xff\xf7", b"\xff\xc0")
        start = max(start, *(data.find(marker, start) + 4 for marker in markers))
        for place in start + rng.integers(0, 40, int(rng.integers(1, 5))):
            data[place : place + 2] = struct.pack(">H", one(rng, SHORTS))
    else:
        for place in start + 4 * rng.integers(0, 20, int(rng.integers(1, 4))):
            data[place : place + 4] = struct.pack("<I", one(rng, LENGTHS))
    return bytes(data)


def many_items(rng: Rng, seed: Seed) -> bytes:
    """The compressed pixels come in a hundred thousand empty fragments, or after them."""
    e = _find(seed, PIXELS)
    assert e is not None
    new = _element(seed, PIXELS, "OB", (ITEM + bytes(4)) * 100_000, length=0xFFFFFFFF)
    return seed.data[: e.start] + new + (seed.data[e.value :] if rng.random() < 0.5 else END)


def deflate_bomb(rng: Rng, seed: Seed) -> bytes:
    """A deflated data set that holds a gigabyte: of nothing, of more pixels than there should be, or of pixels."""
    del seed
    sound = next(s for s in seeds() if s.name == "deflated")
    parts = [b""]
    if kind := int(rng.integers(3)):
        sizes = {0x00280010: 1 << 15, 0x00280011: BOMB_BYTES >> 16} if kind == 2 else {}
        for e in sound.elements:
            if e.tag in sizes:
                parts.append(_element(sound, e.tag, "US", struct.pack("<H", sizes[e.tag])))
            elif 2 < e.tag.group < 0x7FE0:
                parts.append(sound.data[e.start : e.end])
        parts.append(_element(sound, PIXELS, "OW", b"", length=BOMB_BYTES))
    return deflated_meta(sound.data) + bomb(b"".join(parts))


WAYS = {
    hostile_value: 14, hostile_length: 8, hostile_kind: 6, dropped: 3, doubled: 3, added: 6, nested: 2, crowded: 1,
    relabelled: 3, huge: 4,
}  # fmt: skip
"""Way -> how often."""

COMPRESSED = {hostile_stream: 8, many_items: 1}
"""Those for compressed pixels."""
