"""The store: what goes in comes out, damage and half-written scans are never background."""

import json
import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid, schema
from cohort.io import group
from cohort.io.store import Locked, Store, StoreError

AFFINE = np.array([[2.0, 0, 0, -9], [0, 2.5, 0, 4], [0, 0, 3, 11], [0, 0, 0, 1]])


def make_scan(shape=(5, 6, 7), dtype="int16", *, seed=0, **image_attrs):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 100, shape).astype(dtype)
    return schema.make_scan(data, AFFINE, image_attrs={"units": "1", **image_attrs})


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]
)
def test_a_scan_comes_back_as_the_numbers_it_stands_for(tmp_path, dtype):
    store, scan = Store(tmp_path), make_scan(dtype=dtype, scale_factor=0.25, add_offset=-3.0)
    store.write_scan("sub-1_ses-1_a", scan, {"stamp": "s"})
    found = store.open_scan("sub-1_ses-1_a")
    expected = scan["image"].values.astype(np.float64) * 0.25 - 3.0
    assert found["image"].dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_array_equal(found["image"], expected.astype(found["image"].dtype))
    np.testing.assert_array_equal(grid.affine_of(found["image"]), AFFINE)
    np.testing.assert_array_equal(found["affine"], AFFINE)
    assert "scale_factor" not in found["image"].attrs


@given(data=st.data())
def test_any_selection_of_a_lazy_scan_is_that_of_the_whole(tmp_path_factory, data):
    store, scan = Store(tmp_path_factory.mktemp("s")), make_scan((6, 7, 8), scale_factor=0.5)
    store.write_scan("a", scan, {"stamp": "s"})
    whole = schema.decode(scan["image"])
    lazy = store.open_scan("a")["image"]
    selection = {
        d: data.draw(
            st.one_of(
                st.integers(0, n - 1),
                st.slices(n).filter(lambda s, n=n: len(range(*s.indices(n))) > 0),
                st.lists(st.integers(0, n - 1), min_size=1, max_size=4),
            ),
            label=d,
        )
        for d, n in lazy.sizes.items()
    }
    np.testing.assert_array_equal(lazy.isel(selection).values, whole.isel(selection).values)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_lost_an_empty_and_a_cut_chunk_are_errors(tmp_path, monkeypatch, sharded):
    if sharded:  # zarr reads a shard of no bytes as background
        monkeypatch.setattr(group, "WHOLE_BYTES", 0)
        monkeypatch.setattr(group, "CHUNK", 4)
    store = Store(tmp_path)
    store.write_scan("a", make_scan((8, 8, 8)), {"stamp": "s"})
    chunk = store.root / "scans/a.zarr/image/c/0/0/0"
    whole = chunk.read_bytes()
    for damaged in (b"", whole[:-1]):
        chunk.write_bytes(damaged)
        with pytest.raises(StoreError, match=rf"image/c/0/0/0 has {len(damaged)} bytes, expected"):
            store.open_scan("a")
    chunk.unlink()
    with pytest.raises(StoreError, match="image/c/0/0/0 is missing"):
        store.open_scan("a")


def test_opening_reads_no_voxel(tmp_path):
    store = Store(tmp_path)
    record = store.write_scan("a", make_scan((8, 8, 8)), {"stamp": "s"})
    chunk = store.root / "scans/a.zarr/image/c/0/0/0"
    chunk.write_bytes(bytes(record["chunks"]["image/c/0/0/0"][1]))
    image = store.open_scan("a")["image"]
    assert image.shape == (8, 8, 8)
    with pytest.raises(StoreError, match=r"image of a\.zarr: a chunk is damaged"):
        image.load()


def test_an_ordinary_scan_is_at_most_12_files_every_chunk_listed(tmp_path):
    store = Store(tmp_path)
    record = store.write_scan("a", make_scan((40, 256, 256)), {"stamp": "s"})
    files = [p for p in (tmp_path / "scans/a.zarr").rglob("*") if p.is_file()]
    assert len(files) <= 12
    assert {p.relative_to(tmp_path / "scans/a.zarr").as_posix() for p in files} == set(
        record["chunks"]
    )


def test_xarray_alone_opens_a_scan_with_its_coordinates_and_affine(tmp_path):
    store = Store(tmp_path)
    store.write_scan("a", make_scan(scale_factor=0.5), {"stamp": "s"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xr.open_zarr(tmp_path / "scans/a.zarr", consolidated=False, chunks=None)
    assert set(found.coords) == {"z", "y", "x", "grid"}
    np.testing.assert_array_equal(found["image"], store.open_scan("a")["image"])
    np.testing.assert_array_equal(found["affine"], AFFINE)


def test_a_flipped_bit_in_a_chunk_is_an_error_for_200_seeds(tmp_path):
    store = Store(tmp_path)
    store.write_scan("a", make_scan((20, 20, 20)), {"stamp": "s"})
    chunk = tmp_path / "scans/a.zarr/image/c/0/0/0"
    whole = chunk.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        chunk.write_bytes(bytes(damaged))
        with pytest.raises(StoreError, match="damaged"):
            store.open_scan("a")["image"].load()


def test_a_scan_that_is_not_in_memory_is_stored_as_if_it_were(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "WHOLE_BYTES", 0)
    monkeypatch.setattr(group, "CHUNK", 8)
    store, scan = Store(tmp_path), make_scan((20, 17, 9), scale_factor=0.5)
    whole = store.write_scan("a", scan, {"stamp": "s"})
    lazy = store.write_scan("b", scan.assign(image=scan["image"].chunk(5)), {"stamp": "s"})
    assert {**lazy, "scan_id": "a"} == whole
    np.testing.assert_array_equal(store.open_scan("b")["image"], store.open_scan("a")["image"])


def test_without_its_record_a_scan_is_not_there_and_is_swept_away(tmp_path):
    store = Store(tmp_path)
    store.write_scan("a", make_scan(), {"stamp": "s"})
    store.write_scan("b", make_scan(), {"stamp": "s"})
    (tmp_path / "scans/a.json").unlink()
    assert store.scan_ids() == ["b"]
    with pytest.raises(StoreError, match="no a in"):
        store.open_scan("a")
    (tmp_path / "_staging/left").mkdir(parents=True)
    assert store.sweep() == 2
    assert not (tmp_path / "scans/a.zarr").exists()
    assert store.open_scan("b")["image"].shape == (5, 6, 7)


def test_content_is_voxels_scaling_and_place_not_the_header(tmp_path):
    store = Store(tmp_path)

    def content(scan):
        return store.write_scan("a", scan, {"stamp": "s"})["contents"]["image"]

    first = content(make_scan())
    assert content(make_scan().assign_attrs(tr_ms=7)) == first
    assert content(make_scan(seed=1)) != first
    assert content(make_scan(scale_factor=2.0)) != first
    moved = AFFINE.copy()
    moved[0, 3] += 1
    assert (
        content(schema.make_scan(make_scan()["image"].values, moved, image_attrs={"units": "1"}))
        != first
    )


@given(
    shape=st.tuples(*[st.integers(1, 700)] * 3),
    lead=st.lists(st.integers(1, 40), max_size=1),
    itemsize=st.sampled_from([1, 2, 4, 8]),
)
def test_shards_are_whole_chunks_and_stay_within_their_size(shape, lead, itemsize):
    chunks, shards = group.chunking((*lead, *shape), itemsize)
    if shards is None:
        assert chunks == (*lead, *shape)
        assert np.prod(chunks) * itemsize <= group.WHOLE_BYTES
    else:
        assert all(s % c == 0 for s, c in zip(shards, chunks, strict=True))
        assert np.prod(shards, dtype=float) * itemsize <= group.SHARD_BYTES


def test_a_store_of_another_cohort_or_of_a_later_format_is_refused(tmp_path):
    store = Store(tmp_path)
    store.write_info(cohort="one", catalog="c")
    with pytest.raises(StoreError, match="holds the cohort 'one', expected 'two'"):
        store.write_info(cohort="two", catalog="c")
    (tmp_path / "cohort.json").write_text(json.dumps({"cohort": "one", "format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        store.write_info(cohort="one", catalog="c")


def test_a_lock_is_exclusive_and_free_again_afterwards(tmp_path):
    store = Store(tmp_path)
    with store.lock(), pytest.raises(Locked, match="is locked by process"), Store(tmp_path).lock():
        pass
    with store.lock():
        assert (tmp_path / ".lock").read_text().startswith("process ")
