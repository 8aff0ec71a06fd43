"""Thumbnails: what is seen, where it lies, what it costs to read, and what becomes of damage."""

import json

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid, schema
from cohort.io import thumbnail
from cohort.io.leaving.rubbish import rubbish
from cohort.io.storage import jsonfile, metadata
from cohort.io.storage.disk import LocalFiles
from cohort.io.store import Store
from cohort.io.verify import verify

AFFINE = np.array([[2.0, 0, 0, -9], [0, 2.5, 0, 4], [0, 0, 3, 11], [0, 0, 0, 1]])


def make_scan(shape=(20, 22, 24), dtype="int16", *, most=100, seed=0, **image_attrs):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, most, shape).astype(dtype)
    return schema.make_scan(data, AFFINE, image_attrs={"units": "1", **image_attrs})


@pytest.fixture
def stored(tmp_path):
    store = Store(tmp_path / "store")
    store.write_info(cohort="c", catalog="d")
    store.write_scan("a", make_scan(), {"stamp": "s"})
    return store


@given(shape=st.tuples(*[st.integers(1, 180)] * 3).filter(lambda s: np.prod(s) < 200_000))
def test_planes_of_few_shades_are_those_of_the_image_and_lie_where_they_lay(shape):
    scan = make_scan(shape, scale_factor=0.5, add_offset=-7.0)
    image = schema.decode(scan["image"])
    found = thumbnail.read(thumbnail.make(scan, scan))
    for dim, plane in found.planes.items():
        assert plane.sizes[dim] == 1
        if max(shape) <= 160:
            expected = image.isel({dim: [image.sizes[dim] // 2]})
            np.testing.assert_allclose(plane, expected, atol=1e-4)
            grid.check_same_grid(thumbnail=plane, image=expected)
        else:
            assert max(plane.shape) <= 160


def test_many_shades_lie_between_percentiles_to_half_a_step():
    scan = make_scan((30, 31, 32), most=4000)
    found = thumbnail.read(thumbnail.make(scan, scan))
    middle = [scan["image"].isel({d: scan.sizes[d] // 2}).to_numpy() for d in "zyx"]
    low, high = np.percentile(np.concatenate([m.ravel() for m in middle]), thumbnail.WINDOW)
    for plane, whole in zip(found.planes.values(), middle, strict=True):
        expected = np.clip(whole, low, high)
        assert np.abs(plane.to_numpy().squeeze() - expected).max() <= (high - low) / 255 / 2 + 0.01


def test_a_large_plane_keeps_its_extent():
    scan = make_scan((3, 400, 150))
    plane = thumbnail.read(thumbnail.make(scan, scan)).planes["z"]
    assert plane.shape == (1, 134, 150)
    assert grid.spacing_mm(plane) == {"z": 3.0, "y": 7.5, "x": 2.0}
    assert float(plane["y"][0]) == pytest.approx(float(scan["y"][:3].mean()))


def test_cells_are_block_means_with_places(stored):
    scan = make_scan((64, 64, 64))
    coarse = thumbnail.read(thumbnail.make(scan, scan)).coarse
    blocks = scan["image"].to_numpy().reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
    assert np.abs(coarse - blocks).max() <= (blocks.max() - blocks.min()) / 255 / 2 + 1e-4
    np.testing.assert_allclose(coarse["z"], scan["z"].to_numpy().reshape(32, 2).mean(1))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_a_scan_written_in_blocks_has_the_same_thumbnail(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(metadata, "WHOLE_BYTES", 0)
    monkeypatch.setattr(metadata, "CHUNK", 8)
    store, scan = Store(tmp_path), make_scan((40, 17, 29), dtype, most=250)
    whole = store.write_scan("a", scan, {"stamp": "s"})
    lazy = scan.assign(image=scan["image"].copy(data=da.from_array(scan["image"].values, 7)))
    assert store.write_scan("b", lazy, {"stamp": "s"})["thumbnail"] == whole["thumbnail"]


def test_of_a_series_the_first_volume_is_shown():
    frames = np.stack([np.full((4, 5, 6), n, np.int16) for n in (7, 90)])
    scan = schema.make_scan(frames, AFFINE, leading={"time": ("time", [0.0, 1.0], {"units": "s"})})
    found = thumbnail.read(thumbnail.make(scan, scan))
    assert all((plane == 7).all() for plane in (*found.planes.values(), found.coarse))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("float64", 0.0, 1e300),
        ("float64", -1.7e308, 1.7e308),
        ("float32", -3.4e38, 3.4e38),
        ("uint64", 2**63 + 5, 2**63 + 90),
        ("int8", -128, 127),
        ("bool", False, True),
    ],
)
def test_no_number_is_too_large_for_a_thumbnail(dtype, low, high):
    data = np.full((5, 6, 7), low, dtype)
    data[::2] = high
    scan = schema.make_scan(np.zeros(data.shape, "int16"), AFFINE)
    scan["image"] = scan["image"].copy(data=data)
    found = thumbnail.read(thumbnail.make(scan, scan))
    seen = [*found.planes.values(), found.coarse]
    assert all(np.isfinite(part.values).all() for part in seen)
    assert dtype == "uint64" or np.ptp(found.coarse.values.astype(float)) > 0


def test_an_image_of_one_value_has_it():
    scan = make_scan(most=1)
    found = thumbnail.read(thumbnail.make(scan, scan))
    assert not any(plane.any() for plane in (*found.planes.values(), found.coarse))


def test_the_content_of_a_scan_does_not_change_with_its_picture(stored):
    record = stored.record("a")
    assert set(record["contents"]) == {"image"}
    assert set(stored.open_scan("a").data_vars) == {"image", "affine"}
    assert not any("thumbnail" in name for name in record["chunks"])


def test_three_planes_of_a_large_volume_cost_two_small_files(tmp_path, monkeypatch):
    store, read = Store(tmp_path), []
    shape = (256, 256, 256)
    image = da.broadcast_to(da.arange(256, chunks=128, dtype="int16"), shape).rechunk(128)
    scan = make_scan((1, 1, 1))
    coords = grid.coordinates(AFFINE, shape)
    scan = scan.drop_vars(["image", "z", "y", "x", "grid"]).assign_coords(coords)
    store.write_scan("a", scan.assign(image=(grid.SPACE, image, {"units": "1"})), {"stamp": "s"})
    keep = LocalFiles.read

    def counting(files, name):
        content = keep(files, name)
        read.append((name, len(content)))
        return content

    monkeypatch.setattr(LocalFiles, "read", counting)
    monkeypatch.setattr(LocalFiles, "zarr_path", lambda *_: pytest.fail("a chunk was opened"))
    found = store.thumbnail("a")
    assert [name for name, _ in read] == ["scans/a.json", "scans/a.thumbnail"]
    assert sum(n for _, n in read) < 200_000
    np.testing.assert_allclose(found.planes["z"][0, 0], np.arange(128) * 2 + 0.5, atol=2.1)


@pytest.mark.parametrize("fate", ["flipped", "gone", "old"])
def test_without_its_file_the_thumbnail_is_made_from_the_image(stored, fate):
    before = stored.thumbnail("a")
    path = stored.root / "scans/a.thumbnail"
    if fate == "flipped":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    else:
        path.unlink()
    if fate == "old":
        record = {k: v for k, v in stored.record("a").items() if k != "thumbnail"}
        (stored.root / "scans/a.json").write_bytes(jsonfile.encode(record))
        assert not list(verify(stored))
    after = stored.thumbnail("a")
    for mine, yours in zip(
        (*before.planes.values(), before.coarse),
        (*after.planes.values(), after.coarse),
        strict=True,
    ):
        # Of float32 numbers nobody knows that they have few shades: 1 of 255 at most, within the percentiles.
        np.testing.assert_allclose(mine.clip(1, 98), yours.clip(1, 98), atol=0.5)
        np.testing.assert_array_equal(mine["x"], yours["x"])
    assert fate == "flipped" or not path.exists()


def test_verify_sees_one_that_is_damaged_gone_or_not_listed(stored):
    path = stored.root / "scans/a.thumbnail"
    content = path.read_bytes()
    assert not list(verify(stored))
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [(p.kind, p.file) for p in verify(stored)] == [("damaged", "scans/a.thumbnail")]
    path.unlink()
    [problem] = verify(stored)
    assert (problem.kind, problem.file) == ("missing", "scans/a.thumbnail")
    assert "remove scans/a.json and call `cohort update`" in problem.text
    path.write_bytes(content)
    record = {k: v for k, v in stored.record("a").items() if k != "thumbnail"}
    (stored.root / "scans/a.json").write_bytes(jsonfile.encode(record))
    assert [(p.kind, p.file) for p in verify(stored)] == [("foreign", "scans/a.thumbnail")]


def test_a_thumbnail_goes_with_its_scan_and_without_a_record_is_swept(stored):
    path = stored.root / "scans/a.thumbnail"
    (stored.root / "scans/a.json").unlink()
    assert {p.kind for p in verify(stored)} == {"leftover"}
    names = [n for r in rubbish(stored, recipes=[], frozen=[], models=[]) for n in r.names]
    assert sorted(names) == ["scans/a.thumbnail", "scans/a.zarr/"]
    assert stored.sweep() == 2
    assert not path.exists()
    stored.write_scan("a", make_scan(), {"stamp": "s"})
    assert path.exists()
    stored.remove_scan("a")
    assert not list((stored.root / "scans").iterdir())


def test_nothing_names_anybody(stored):
    header, _ = thumbnail.opened((stored.root / "scans/a.thumbnail").read_bytes())
    assert set(header) == {"format", "affine", "at", "planes", "shades", "coarse", "cells"}
    assert json.dumps(header).isascii()
