"""The store: what goes in comes out, damage and half-written scans are never background."""

import hashlib
import json
import pickle
import warnings
from functools import partial

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid, schema
from cohort.io.storage import group, jsonfile, metadata, objects
from cohort.io.storage import s3 as client
from cohort.io.storage.backend import Unreachable
from cohort.io.store import Locked, Store, StoreError

pytest_plugins = ["s3"]

AFFINE = np.array([[2.0, 0, 0, -9], [0, 2.5, 0, 4], [0, 0, 3, 11], [0, 0, 0, 1]])


def make_scan(shape=(5, 6, 7), dtype="int16", *, seed=0, **image_attrs):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 100, shape).astype(dtype)
    return schema.make_scan(data, AFFINE, image_attrs={"units": "1", **image_attrs})


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path):
    """Where a store may lie."""
    if request.param == "folder":
        return tmp_path / "store"
    return f"{request.getfixturevalue('s3').url}/a/store"


@pytest.fixture
def sharded(monkeypatch):
    """Arrays of a few voxels are stored as large ones are: in shards of several chunks."""
    monkeypatch.setattr(metadata, "WHOLE_BYTES", 0)
    monkeypatch.setattr(metadata, "CHUNK", 4)
    monkeypatch.setattr(metadata, "SHARD_BYTES", 600)


def flipped(content, rng):
    """The content with one bit flipped."""
    damaged = bytearray(content)
    damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(damaged)


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
@pytest.mark.parametrize("in_shards", [False, True])
def test_any_selection_of_a_lazy_scan_is_that_of_the_whole(place, request, in_shards, data):
    if in_shards:
        request.getfixturevalue("sharded")
    # Another shape in shards: metadata of equal arrays are made once.
    shape = (7, 6, 9) if in_shards else (6, 7, 8)
    store, scan = Store(place), make_scan(shape, scale_factor=0.5)
    if store.record("a") is None:
        chunks = store.write_scan("a", scan, {"stamp": "s"})["chunks"]
        assert (sum(name.startswith("image/c/") for name in chunks) > 1) == in_shards
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
        monkeypatch.setattr(metadata, "WHOLE_BYTES", 0)
        monkeypatch.setattr(metadata, "CHUNK", 4)
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


@pytest.mark.usefixtures("sharded")
@pytest.mark.parametrize("blocks", [1, 5, (20, 1, 9), ((3, 16, 1), (8, 9), (9,)), -1])
def test_a_scan_that_is_not_in_memory_is_stored_as_if_it_were(place, blocks):
    store, scan = Store(place), make_scan((20, 17, 9), scale_factor=0.5)
    whole = store.write_scan("a", scan, {"stamp": "s"})
    image = scan["image"].copy(data=da.from_array(scan["image"].values, blocks))
    lazy = store.write_scan("b", scan.assign(image=image), {"stamp": "s"})
    assert {**lazy, "scan_id": "a"} == whole
    np.testing.assert_array_equal(store.open_scan("b")["image"], store.open_scan("a")["image"])


def test_without_its_record_a_scan_is_not_there_and_is_swept_away(place):
    store = Store(place)
    for scan_id in "ab":
        store.write_scan(scan_id, make_scan(), {"stamp": "s"})
        store.write_derivative("r", scan_id, make_scan()[["affine", "image"]], {"state": "done"})
    store.files.remove("scans/a.json")
    store.files.remove("derivatives/r/b.json")
    assert (store.scan_ids(), store.derivative_ids("r")) == (["b"], ["a"])
    with pytest.raises(StoreError, match="no a in"):
        store.open_scan("a")
    if store.is_local:
        (place / "_staging/left").mkdir(parents=True)
        (place / "scans/.c.json.1.tmp").write_text("half")
    assert store.sweep() == (5 if store.is_local else 3)
    assert store.files.names("scans") == ["b.json", "b.thumbnail", "b.zarr"]
    assert store.files.names("derivatives/r") == ["a.json", "a.zarr"]
    assert store.open_scan("b")["image"].shape == (5, 6, 7)
    assert store.sweep() == 0


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
    chunks, shards = metadata.chunking((*lead, *shape), itemsize)
    if shards is None:
        assert chunks == (*lead, *shape)
        assert np.prod(chunks) * itemsize <= metadata.WHOLE_BYTES
    else:
        assert all(s % c == 0 for s, c in zip(shards, chunks, strict=True))
        assert np.prod(shards, dtype=float) * itemsize <= metadata.SHARD_BYTES


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


# -- in a bucket as in a folder --------------------------------------------------------------------


def test_a_bucket_holds_the_same_objects_as_a_folder_files(tmp_path, s3):
    stores = [Store(tmp_path / "store"), Store(f"{s3.url}/store")]
    for store in stores:
        store.write_scan("a", make_scan(), {"stamp": "s"})
        store.write_derivative("r", "a", make_scan()[["affine", "image"]], {"state": "done"})
        store.write_table("t", pd.DataFrame({"n": [1, 2]}), {"n": "mm"})
        store.write_model("m", {"tidy": pd.DataFrame({"n": [1]})}, {"stamp": "s"})
        store.write_quarantine("q", {"code": "DCM-GAP"})
        store.write_info(cohort="c", catalog="d")
        store.write_recipe("e", {"steps": {}})
    first, second = ({n: s.files.read(n) for n, _ in s.files.listing()} for s in stores)
    assert first == second
    assert len(first) > 20
    for store in stores:
        assert store.table("t").equals(pd.DataFrame({"n": [1, 2]}))
        assert (store.tables(), store.models(), store.units("t")) == (["t"], ["m"], {"n": "mm"})
        assert list(store.derivatives("r", ["b", "a"])) == [None, store.derivative("r", "a")]
        assert list(store.records(["a", "b"])) == [store.record("a"), None]
        assert list(store.standing(["b", "a"])) == [(None, []), (store.record("a"), [])]
        store.remove_tables("t", [])
        store.remove_model("m")
        store.clear_quarantine("q")
        assert (store.models(), store.quarantine()) == ([], [])


def test_a_lost_and_a_cut_object_are_errors(s3):
    store = Store(f"{s3.url}/store")
    store.write_scan("a", make_scan((8, 8, 8)), {"stamp": "s"})
    name = "scans/a.zarr/image/c/0/0/0"
    store.files.write(name, store.files.read(name)[:-1])
    with pytest.raises(StoreError, match=r"image/c/0/0/0 has \d+ bytes, expected"):
        store.open_scan("a")
    store.files.remove(name)
    assert store.missing_chunks("a") == ["image/c/0/0/0 is missing from the store"]
    with pytest.raises(StoreError, match="image/c/0/0/0 is missing"):
        store.open_scan("a")


@pytest.mark.parametrize("in_shards", [False, True])
def test_a_server_that_goes_away_is_no_damage(s3, monkeypatch, request, in_shards):
    if in_shards:
        request.getfixturevalue("sharded")
    store = Store(f"{s3.url}/store")
    store.write_scan("a", make_scan((8, 8, 8)), {"stamp": "s"})
    image = store.open_scan("a")["image"]
    monkeypatch.setattr(objects, "connect", partial(client.connect, retry_s=0.2))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="the object store fails"):
        image.isel(z=0).load()


def test_a_store_says_where_it_lies_and_travels(place):
    store = Store(place)
    again = pickle.loads(pickle.dumps(store))
    assert again.url == store.url == str(place)
    if store.is_local:
        assert (store.root, store.place("a/b")) == (place, place / "a/b")
    else:
        assert store.place("a/b") == f"{place}/a/b"
        with pytest.raises(StoreError, match="is no folder on this machine"):
            _ = store.root
        from pathlib import Path

        assert Store(Path(place)).url == place  # as a command line hands it on


# -- what a bit may do -----------------------------------------------------------------------------


@given(
    st.dictionaries(
        st.text(max_size=9).filter(lambda k: k != "digest"),
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.lists(st.integers())),
    ),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_json_comes_back_and_every_flipped_bit_is_seen(value, random):
    try:
        content = jsonfile.encode(value)
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    assert jsonfile.decode(content, required=True) == value
    plain = json.loads(content)
    assert plain == {"digest": plain["digest"], **value}
    bits = range(8 * len(content))
    for bit in bits if len(bits) < 1500 else random.sample(bits, 500):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="digest"):
            jsonfile.decode(bytes(damaged), required=True)


def test_a_flipped_bit_in_a_record_makes_the_scan_not_there_for_200_seeds(tmp_path):
    store, rng = Store(tmp_path), np.random.default_rng(0)
    store.write_scan("a", make_scan(), {"stamp": "s"})
    whole = store.files.read("scans/a.json")
    for _ in range(200):
        (tmp_path / "scans/a.json").write_bytes(flipped(whole, rng))
        assert store.record("a") is None
        with pytest.raises(StoreError, match="no a in"):
            store.open_scan("a")


def test_a_flipped_bit_in_metadata_is_an_error_for_200_seeds(tmp_path):
    store, rng = Store(tmp_path), np.random.default_rng(0)
    record = store.write_scan("a", make_scan(), {"stamp": "s"})
    names = [name for name in record["chunks"] if name.endswith("zarr.json")]
    assert len(names) == 7
    for n in range(200):
        path = tmp_path / "scans/a.zarr" / names[n % len(names)]
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, rng))
        with pytest.raises(StoreError, match=r"zarr.json is damaged"):
            store.open_scan("a")
        path.write_bytes(whole)
    store.open_scan("a")


def test_a_flipped_bit_in_a_table_of_measurements_or_of_a_model_is_an_error_for_200_seeds(tmp_path):
    store, rng = Store(tmp_path), np.random.default_rng(0)
    table = pd.DataFrame({"scan_id": ["a", "b"], "head_ml": [1.5, 2.5]})
    store.write_table("ball", table)
    store.write_model("m", {"tidy": table}, {"stamp": "s"})
    reads = {
        "tables/ball.parquet": lambda: store.table("ball"),
        "models/m/tidy.parquet": lambda: store.model_table("m", "tidy"),
    }
    for name, read in reads.items():
        whole = (tmp_path / name).read_bytes()
        for _ in range(100):
            (tmp_path / name).write_bytes(flipped(whole, rng))
            with pytest.raises(StoreError, match=f"{name} is damaged"):
                read()
        (tmp_path / name).write_bytes(whole)
        assert read().equals(table)


def test_a_damaged_table_or_list_of_digests_is_mended_by_the_next_write(tmp_path):
    store, table = Store(tmp_path), pd.DataFrame({"n": [1, 2]})
    store.write_table("t", table)
    before = {p.name: p.read_bytes() for p in (tmp_path / "tables").iterdir()}
    for name, content in before.items():
        (tmp_path / "tables" / name).write_bytes(flipped(content, np.random.default_rng(1)))
        store.write_table("t", table)
        assert {p.name: p.read_bytes() for p in (tmp_path / "tables").iterdir()} == before


@pytest.mark.parametrize("writes", range(4))
def test_a_table_is_the_old_or_the_new_one_wherever_a_crash_comes(tmp_path, monkeypatch, writes):
    store, old, new = Store(tmp_path), pd.DataFrame({"n": [1]}), pd.DataFrame({"n": [2]})
    store.write_table("t", old)
    write, left = store.files.write, iter([True] * writes)

    def crashing(name, content):
        if not next(left, False):
            raise KeyboardInterrupt
        write(name, content)

    monkeypatch.setattr(store.files, "write", crashing)
    if writes < 3:
        with pytest.raises(KeyboardInterrupt):
            store.write_table("t", new)
    else:
        store.write_table("t", new)
    after = Store(tmp_path)
    assert after.table("t").equals(new if writes > 1 else old)
    after.write_table("t", new)
    assert after.table("t").equals(new)
    digest = hashlib.sha256((tmp_path / "tables/t.parquet").read_bytes()).hexdigest()
    assert after.read_json("tables/checksums.json") == {"t.parquet": [digest]}


# -- a store that somebody made to do harm -----------------------------------------------------------


class Touch:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        from pathlib import Path

        return Path.touch, (self.path,)


def craft(store, name, change):
    """Change the metadata of an array of the scan "a", and its record so that all digests are right."""
    place = f"scans/a.zarr/{name}/zarr.json"
    said = json.loads(store.files.read(place))
    change(said)
    content = json.dumps(said).encode()
    store.files.write(place, content)
    record = store.record("a")
    record["chunks"][f"{name}/zarr.json"] = [hashlib.sha256(content).hexdigest(), len(content)]
    store.write_json("scans/a.json", record)


CRAFTED = {
    "codecs bytes, pickle": lambda m: m["codecs"].append({"name": "pickle"}),
    "codecs numcodecs.pickle, zstd": lambda m: m["codecs"].__setitem__(0, {"name": "numcodecs.pickle"}),
    "codecs bytes, gzip": lambda m: m["codecs"].__setitem__(1, {"name": "gzip"}),
    "in a shard": lambda m: m.update(
        codecs=[{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [1, 1, 1], "codecs": [{"name": "bytes"}, {"name": "evil"}],
            "index_codecs": [{"name": "bytes"}, {"name": "crc32c"}]}}]),
    "data type '|O'": lambda m: m.update(data_type="|O"),
    "data type 'string'": lambda m: m.update(data_type="string"),
    "data type .*datetime64": lambda m: m.update(data_type={"name": "numpy.datetime64"}),
    "Zarr format 2": lambda m: m.update(zarr_format=2),
    "storage transformers": lambda m: m.update(storage_transformers=[{"name": "x"}]),
    "big-endian": lambda m: m["codecs"][0].update(configuration={"endian": "big"}),
    "regular grid": lambda m: m["chunk_grid"].update(name="rectangular"),
    "shape and chunks": lambda m: m.update(shape=[5, 6, -7]),
    "dims": lambda m: m.update(dimension_names=["z"]),
    "attributes": lambda m: m.update(attributes=[]),
    "cannot be read": lambda m: m.pop("codecs"),
}  # fmt: skip


@pytest.mark.parametrize("says", CRAFTED)
def test_metadata_that_we_do_not_write_are_refused_before_a_chunk_is_read(
    tmp_path, says, monkeypatch
):
    store = Store(tmp_path)
    store.write_scan("a", make_scan(), {"stamp": "s"})
    change = CRAFTED[says]
    if says == "codecs bytes, pickle":
        says = "codecs bytes, zstd, pickle"
    craft(store, "image", change)
    monkeypatch.setattr(group._Stored, "_stored", None)  # whoever reads a chunk fails
    with pytest.raises(
        StoreError, match=rf"image/zarr.json: .*{says.replace('|', '.')}.*nothing of it was read"
    ):
        store.open_scan("a")


def test_a_pickle_where_a_chunk_or_an_old_array_should_be_is_never_loaded(tmp_path):
    store, ran = Store(tmp_path), tmp_path / "ran"
    store.write_scan("a", make_scan(), {"stamp": "s"})
    bomb = pickle.dumps(Touch(ran))
    pickle.loads(bomb)
    assert ran.exists()  # it would work
    ran.unlink()
    folder = tmp_path / "scans/a.zarr/image"
    old = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "order": "C", "fill_value": None,
        "filters": [{"id": "pickle"}], "compressor": None,
    }  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(old))
    (folder / "0").write_bytes(bomb)
    store.open_scan("a")["image"].load()  # what the record does not list is not looked at
    (folder / "c/0/0/0").write_bytes(bomb)
    record = store.record("a")
    record["chunks"]["image/c/0/0/0"] = [hashlib.sha256(bomb).hexdigest(), len(bomb)]
    store.write_json("scans/a.json", record)
    with pytest.raises(StoreError, match="a chunk is damaged"):
        store.open_scan("a")["image"].load()
    (folder / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"image/zarr.json is missing"):
        store.open_scan("a")
    assert not ran.exists()
