"""The scans of a model as one array, against the stack of them, as scans come and go."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cohort.io import cube
from cohort.io.storage.disk import LocalFiles

SHAPE = (5, 7, 6)


def scan(name, dtype=np.float32):
    seed = int.from_bytes(name.encode(), "big")
    return np.random.default_rng(seed).normal(size=SHAPE).astype(dtype)


def written(root, place, names, *, before=None, dtype=np.float32, wide=(), read=None, **kwargs):
    """A cube of scans of one dtype, but for those that are float64."""

    def dtype_of(name):
        return np.dtype(np.float64 if name in wide else dtype)

    def load(name):
        if read is not None:
            read.append(name)
        return scan(name, dtype_of(name))

    scans = {name: f"digest of {name}" for name in names}
    loader = cube.Loader(load, lambda ids: {dtype_of(name) for name in ids})
    metadata = cube.write(root / place, scans, loader, before=before, **kwargs)
    return cube.Cube(LocalFiles(root), place, metadata, scans)


def whole(made):
    out = np.empty((len(made.scans), *made.shape), made.metadata["data_type"])
    for tile in made.tiles():
        out[(slice(None), *tile)] = made.read(tile)
    return out


@settings(max_examples=8)
@given(
    names=st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True),
    tile_bytes=st.integers(100, 5000),
    dtype=st.sampled_from([np.float32, np.float64, np.bool_, np.int16]),
)
def test_holds_every_scan_for_any_size_of_the_pieces(tmp_path_factory, names, tile_bytes, dtype):
    root = tmp_path_factory.mktemp("cube")
    made = written(root, "c", names, tile_bytes=tile_bytes, dtype=dtype)
    np.testing.assert_array_equal(whole(made), np.stack([scan(n, dtype) for n in names]))
    assert sorted(p.name for p in root.iterdir()) == ["c"]
    assert max(made.read(t).size for t in made.tiles()) * 4 <= max(tile_bytes, 8 * len(names)) * 2


@settings(max_examples=8)
@given(
    first=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
    then=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
)
def test_only_scans_that_arrive_are_read(tmp_path_factory, first, then):
    root, read = tmp_path_factory.mktemp("cube"), []
    before = written(root, "before", first, tile_bytes=500)
    made = written(root, "after", then, before=before, read=read, tile_bytes=700)
    assert sorted(read) == sorted(set(then) - set(first))
    np.testing.assert_array_equal(whole(made), np.stack([scan(n) for n in then]))


@settings(max_examples=12)
@given(
    first=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
    then=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True),
    wide=st.sets(st.sampled_from("abcdef"), max_size=2),
)
@example(first=list("abc"), then=list("abcd"), wide=set("abc"))
@example(first=list("abc"), then=list("abcd"), wide={"d"})
@example(first=list("abc"), then=list("ab"), wide={"c"})
def test_the_widest_scan_decides_whichever_arrives_first(tmp_path_factory, first, then, wide):
    root = tmp_path_factory.mktemp("cube")
    before = written(root, "before", first, wide=wide, tile_bytes=500)
    made = written(root, "after", then, wide=wide, before=before, tile_bytes=700)
    expected = np.stack([scan(n, np.float64 if n in wide else np.float32) for n in then])
    assert made.metadata["data_type"] == expected.dtype.name
    np.testing.assert_array_equal(whole(made), expected)
    written(root, "anew", then, wide=wide, tile_bytes=700)
    assert content(root / "after") == content(root / "anew")


def content(folder):
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_a_scan_that_is_wider_than_said_is_not_cut(tmp_path):
    with pytest.raises(ValueError, match="a holds float64, expected nothing wider than float32"):
        cube.write(tmp_path / "c", {"a": ""}, lambda _: np.zeros((2, 3, 4)))


def test_a_scan_of_other_content_is_read_again(tmp_path):
    before = written(tmp_path, "before", ["a", "b"])
    changed = cube.Cube(
        before.files, before.place, before.metadata, {"a": "else", "b": before.scans["b"]}
    )
    read = []
    written(tmp_path, "after", ["a", "b"], before=changed, read=read)
    assert read == ["a"]


def test_a_scan_of_another_shape_is_named(tmp_path):
    shapes = {"a": (2, 3, 4), "b": (2, 3, 5)}
    with pytest.raises(ValueError, match=r"b has \(2, 3, 5\) voxels, the others \(2, 3, 4\)"):
        cube.write(
            tmp_path / "c", dict.fromkeys(shapes, ""), lambda n: np.zeros(shapes[n], np.float32)
        )


def test_a_flipped_bit_is_seen(tmp_path):
    made = written(tmp_path, "c", ["a", "b"])
    (chunk,) = (p for p in (tmp_path / "c").rglob("*") if p.is_file() and p.name != "zarr.json")
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(cube.Damaged, match=r"^c/c/0/0/0/0: missing or damaged \(.*checksum"):
        made.read(made.tiles()[0])
    chunk.unlink()
    with pytest.raises(cube.Damaged, match=r"^c/c/0/0/0/0: missing or damaged \(No such file"):
        made.read(made.tiles()[0])
