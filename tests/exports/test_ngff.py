"""OME-Zarr 0.5: the rules of its metadata, the numbers of every level, and where their voxels lie."""

import json

import cohorts
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from cohort import api, cli, grid, schema
from cohort.io.exports.ngff import write_ngff
from cohort.io.exports.place import ExportError
from cohort.kernels.coarser import block_mean, block_mode


def check_rules(folder):
    """What the specification of OME-Zarr 0.5 says that a multiscale image MUST have, point by point."""
    root = json.loads((folder / "zarr.json").read_text())
    assert (root["zarr_format"], root["node_type"]) == (3, "group")
    ome = root["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (multiscale,) = ome["multiscales"]
    axes = multiscale["axes"]
    assert 2 <= len(axes) <= 5
    assert len({a["name"] for a in axes}) == len(axes)
    kinds = [a.get("type") for a in axes]
    assert kinds.count("space") in (2, 3)
    assert kinds.count("time") <= 1
    assert kinds == sorted(kinds, key=["time", "channel", "space"].index), "time, channel, space"
    assert [a["name"] for a in axes if a.get("type") == "space"] == ["z", "y", "x"]
    assert {a["unit"] for a in axes if a.get("type") == "space"} == {"millimeter"}
    assert {a["unit"] for a in axes if a.get("type") == "time" and "unit" in a} <= {"second"}
    sizes = []
    for dataset in multiscale["datasets"]:
        said = json.loads((folder / dataset["path"] / "zarr.json").read_text())
        assert (said["zarr_format"], said["node_type"]) == (3, "array")
        assert len(said["shape"]) == len(axes)
        assert said["dimension_names"] == [a["name"] for a in axes]
        transformations = dataset["coordinateTransformations"]
        assert [t["type"] for t in transformations] == ["scale", "translation"]
        assert all(len(t[t["type"]]) == len(axes) for t in transformations)
        assert all(s > 0 for s in transformations[0]["scale"])
        sizes.append(np.prod(said["shape"]))
    assert sizes == sorted(sizes, reverse=True), "from the finest to the coarsest"
    for channel in ome.get("omero", {}).get("channels", []):
        assert set(channel["window"]) == {"min", "max", "start", "end"}
        assert len(bytes.fromhex(channel["color"])) == 3
    return root["attributes"]


def scan(shape=(9, 70, 131), *, dtype=np.int16, spacing=(3.0, 1.0, 1.2), attrs=None, **leading):
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = [-60, 11.5, -7]
    variables = {name: xr.Variable(name, *value) for name, value in leading.items()}
    full = (*(v.size for v in variables.values()), *shape)
    values = np.random.default_rng(1).integers(-900, 900, full).astype(dtype)
    return schema.make_scan(values, affine, leading=variables, image_attrs=attrs)["image"]


def test_an_image_obeys_the_rules_and_each_level_is_the_mean_of_blocks(tmp_path):
    image = scan()
    assert write_ngff(image, tmp_path, name="a") == 3
    attrs = check_rules(tmp_path)
    first, second, third = (zarr.open_array(tmp_path / str(n), mode="r")[...] for n in range(3))
    np.testing.assert_array_equal(first, image.values)
    assert second.shape == (9, 35, 66), "slices are thick enough already"
    pairs = np.pad(image.values, [(0, 0), (0, 0), (0, 1)], mode="edge")
    means = pairs.reshape(9, 35, 2, 66, 2).mean(axis=(2, 4), dtype=float)
    np.testing.assert_array_equal(second, np.rint(means))
    assert third.shape == (5, 18, 33), "now they are not"
    assert attrs["ome"]["multiscales"][0]["type"] == "mean"


def test_voxels_of_every_level_lie_where_the_middle_of_their_blocks_does(tmp_path):
    image = scan()
    write_ngff(image, tmp_path, name="a")
    attrs = check_rules(tmp_path)
    for dataset in attrs["ome"]["multiscales"][0]["datasets"]:
        scale, shift = (t[t["type"]] for t in dataset["coordinateTransformations"])
        shape = zarr.open_array(tmp_path / dataset["path"], mode="r").shape
        for dim, s, t, n in zip("zyx", scale, shift, shape, strict=True):
            by = round(s / grid.spacing_mm(image)[dim])
            middles = image[dim].values[: n // 2 * by].reshape(-1, by).mean(axis=1)
            np.testing.assert_allclose(t + s * np.arange(middles.size), middles)
    np.testing.assert_array_equal(
        np.reshape(attrs["cohort"]["affine"], (4, 4)), grid.affine_of(image)
    )


@pytest.mark.parametrize(
    ("dtype", "attrs", "written"),
    [
        (np.int16, {"scale_factor": 0.5, "add_offset": -3.0}, "float32"),
        (np.float64, {"scale_factor": 0.5}, "float64"),
        (np.float32, {}, "float32"),
        (np.uint16, {}, "uint16"),
    ],
)
def test_values_are_the_real_ones(tmp_path, dtype, attrs, written):
    image = scan((5, 6, 7), dtype=dtype, attrs=attrs)
    write_ngff(image, tmp_path, name="a")
    array = zarr.open_array(tmp_path / "0", mode="r")
    assert array.dtype == written
    np.testing.assert_array_equal(array[...], schema.decode(image).values.astype(written))


def test_time_and_echoes_come_first_and_are_not_averaged(tmp_path):
    image = scan((4, 80, 70), time=(0.2 + 0.05 * np.arange(3), {"units": "s"}))
    assert write_ngff(image, tmp_path / "even", name="a") == 2
    attrs = check_rules(tmp_path / "even")
    multiscale = attrs["ome"]["multiscales"][0]
    assert multiscale["axes"][0] == {"name": "t", "type": "time", "unit": "second"}
    assert [d["coordinateTransformations"][0]["scale"][0] for d in multiscale["datasets"]] == (
        pytest.approx([0.05, 0.05])
    )
    assert zarr.open_array(tmp_path / "even/1", mode="r").shape == (3, 4, 40, 35)
    uneven = scan((4, 5, 6), time=([0.0, 0.1, 0.3], {"units": "s"}))
    write_ngff(uneven, tmp_path / "uneven", name="a")
    attrs = check_rules(tmp_path / "uneven")
    assert "unit" not in attrs["ome"]["multiscales"][0]["axes"][0]
    assert attrs["cohort"]["time"] == [0.0, 0.1, 0.3]
    both = scan((4, 5, 6), echo=([1, 2], {}), time=(np.arange(3.0), {"units": "s"}))
    write_ngff(both, tmp_path / "both", name="a")
    check_rules(tmp_path / "both")
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "both/0", mode="r")[...], both.values.swapaxes(0, 1)
    )


def test_labels_keep_their_numbers(tmp_path):
    labels = scan((8, 90, 90), spacing=(1, 1, 1)).rename("parts")
    labels = labels.copy(data=np.where(labels.values > 500, 900, 7).astype(np.int32))
    assert write_ngff(labels, tmp_path, name="a") == 2
    assert "image-label" in check_rules(tmp_path)["ome"]
    coarse = zarr.open_array(tmp_path / "1", mode="r")
    assert coarse.dtype == np.int32
    assert set(np.unique(coarse[...])) == {7, 900}


@given(
    values=hnp.arrays(
        st.sampled_from([np.int16, np.uint8, np.int64, np.float32]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements=st.integers(0, 100),
    ),
    by=st.tuples(*[st.sampled_from([1, 2])] * 3),
)
def test_blocks_are_averaged_and_voted_on_as_one_by_one(values, by):
    mean, mode = block_mean(values, by), block_mode(values, by)
    for place in np.ndindex(mean.shape):
        padded = np.pad(values, [(0, 1)] * 3, mode="edge")
        block = padded[tuple(slice(p * f, p * f + f) for p, f in zip(place, by, strict=True))]
        exact = block.mean(dtype=float)
        expected = np.rint(exact) if values.dtype.kind in "iu" else np.float32(exact)
        assert mean[place] == expected
        often = [(block == v).sum() for v in block.ravel()]
        assert mode[place] == block.ravel()[int(np.argmax(often))]
    assert mean.dtype == mode.dtype == values.dtype


def test_the_largest_integers_stay_what_they_are():
    for dtype in (np.int64, np.uint64, np.int8):
        ends = np.array([[np.iinfo(dtype).max, np.iinfo(dtype).min]], dtype).T
        got = block_mean(np.repeat(ends, 2, axis=1), (1, 2))
        np.testing.assert_allclose(got[:, 0].astype(float), ends[:, 0].astype(float))


def test_every_chunk_is_written_and_large_ones_lie_in_shards(tmp_path):
    image = scan((70, 70, 300), dtype=np.uint8, spacing=(1, 1, 1)) * 0
    image.attrs.clear()
    write_ngff(image.astype(np.uint8).rename("image"), tmp_path, name="a")
    said = json.loads((tmp_path / "0/zarr.json").read_text())
    assert said["codecs"][0]["name"] == "sharding_indexed"
    assert said["codecs"][0]["configuration"]["chunk_shape"] == [64, 64, 64]
    assert len([p for p in (tmp_path / "0/c").rglob("*") if p.is_file()]) == 2


def test_what_has_no_form_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"dims .*'coil'"):
        write_ngff(scan((2, 3, 4), coil=([1, 2], {})), tmp_path, name="a")
    with pytest.raises(ExportError, match="image is complex64"):
        write_ngff(scan((2, 3, 4), dtype=np.complex64), tmp_path, name="a")


def test_the_command_writes_a_scan_and_what_was_kept(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 1)
    api.update(catalog, options=api.Options(workers=0))
    for extra, name in (([], "scan"), (["--recipe", "ball"], "big")):
        out = tmp_path / f"{name}.ome.zarr"
        command = ["export", "ome-zarr", str(catalog), "000", *extra, "-o", str(out)]
        done = CliRunner().invoke(cli.app, command)
        assert (done.exit_code, done.stdout.strip()) == (0, str(out)), done.stderr
        check_rules(out)
        assert CliRunner().invoke(cli.app, command).exit_code == 2
        assert CliRunner().invoke(cli.app, [*command, "--force"]).exit_code == 0
    ours = api.open(catalog).scan("000")["image"].values
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "scan.ome.zarr/0")[...], ours)
