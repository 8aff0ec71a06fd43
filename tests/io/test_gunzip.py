"""A gzip stream to its end: the same bytes as Python's own, and no damage goes unseen."""

import gzip
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.gunzip import DamagedGzipError, Gunzip


def read_all(data, n=1000):
    stream = Gunzip(io.BytesIO(data))
    pieces = []
    while piece := stream.read(n):
        pieces.append(piece)
    return b"".join(pieces), stream.junk


@given(
    members=st.lists(st.binary(max_size=3000), min_size=1, max_size=3),
    n=st.integers(1, 5000),
    junk=st.sampled_from([b"", b"\0", b"\0" * 700, b"junk"]),
)
def test_every_member_is_read_and_junk_is_counted(members, n, junk):
    data = b"".join(gzip.compress(m) for m in members)
    assert read_all(data + junk, n) == (b"".join(members), len(junk))


def test_no_flipped_bit_goes_unseen():
    rng = np.random.default_rng(0)
    data = gzip.compress(rng.integers(0, 20, 5000, dtype=np.uint8).tobytes(), mtime=0)
    whole, _ = read_all(data)
    unseen = 0
    for position in rng.integers(10, len(data), 200):
        broken = bytearray(data)
        broken[position] ^= 1 << int(rng.integers(8))
        try:
            unseen += read_all(bytes(broken))[0] != whole
        except DamagedGzipError:
            continue
    assert unseen == 0


def test_a_stream_cut_anywhere_stops_before_its_end():
    data = gzip.compress(b"0123456789" * 300)
    for n in range(1, len(data)):
        with pytest.raises(DamagedGzipError, match="stops before its end"):
            read_all(data[:n])
