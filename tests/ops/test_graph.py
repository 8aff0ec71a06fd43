"""The builder of graphs itself: any kernel, any chunks, any mode, and what may wait on disk."""

import contextlib
import pickle
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize
from dask.utils import ensure_dict
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import chunked, chunkings, nothing_computed, scan, shapes, tasks_per_block

from cohort.kernels import components, halo
from cohort.kernels.blocks import TILE
from cohort.ops import filters, graph, labels, masks, measure
from cohort.ops.graph import chunking

MODES = sorted(halo.MODES)


def window_sum(block, *, size):
    """Sum over a window; of integers, so that the order of additions cannot matter."""
    return ndi.correlate(block, np.ones(size, np.int64), mode="constant")


def smooth(image, mode, width, halo_width=None):
    """The window sum as an operation."""
    halo_width = width if halo_width is None else halo_width
    return graph.map_stencil(
        window_sum,
        {"image": image},
        halo_voxels=dict(zip("zyx", halo_width, strict=True)),
        dtype=np.int64,
        mode=mode,
        fill=3.0,
        params={"size": tuple(2 * w + 1 for w in width)},
    )


# Arrays.


@given(data=st.data(), shape=shapes(high=9))
def test_chunks_without_voxels_are_passed_over(data, shape):
    image = scan(np.random.default_rng(0).integers(0, 99, shape))
    chunks = [list(sizes) for sizes in data.draw(chunkings(shape))]
    for sizes in chunks:
        for place in data.draw(st.lists(st.integers(0, len(sizes)), max_size=2)):
            sizes.insert(place, 0)
    lazy = image.copy(data=da.from_array(image.values, chunks=tuple(map(tuple, chunks))))
    mask, some = (masks.threshold(source, above=50) for source in (image, lazy))
    pairs = [
        (smooth(image, "mirror", (1, 2, 0)), smooth(lazy, "mirror", (1, 2, 0))),
        (filters.gaussian(image, sigma=0), filters.gaussian(lazy, sigma=0)),
        (labels.label(mask), labels.label(some)),
        (measure.distance_mm(mask), measure.distance_mm(some)),
        (measure.std_in(image, mask=mask), measure.std_in(lazy, mask=some)),
        (measure.median_in(image), measure.median_in(lazy)),
    ]
    for expected, actual in pairs:
        np.testing.assert_array_equal(actual, expected)


# Stencils.


@given(
    data=st.data(),
    shape=shapes(high=9),
    mode=st.sampled_from(MODES),
    width=st.tuples(*[st.integers(0, 4)] * 3),
)
def test_a_stencil_equals_scipy_for_every_chunking_and_mode(data, shape, mode, width):
    image = scan(np.random.default_rng(0).integers(0, 99, shape))
    (lazy,) = data.draw(chunked(image))
    size = tuple(2 * w + 1 for w in width)
    expected = ndi.correlate(image.to_numpy(), np.ones(size, int), mode=mode, cval=3)
    np.testing.assert_array_equal(smooth(image, mode, width), expected)
    actual = smooth(lazy, mode, width)
    assert actual.chunks == lazy.chunks
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_halo_that_is_one_voxel_short_shows(mode, axis):
    image = scan(np.random.default_rng(0).integers(0, 99, (9, 10, 11))).chunk(4)
    width = (2, 2, 2)
    short = tuple(w - (a == axis) for a, w in enumerate(width))
    assert (smooth(image, mode, width).values != smooth(image, mode, width, short).values).any()


@pytest.mark.parametrize("mode", [*MODES, None])
def test_a_stencil_takes_few_tasks_whatever_the_mode(mode):
    image = scan(np.zeros((32, 32, 32), int))
    assert tasks_per_block(smooth(image.chunk(8), mode, (2, 1, 3)), image.chunk(8)) <= 2
    assert tasks_per_block(smooth(image.chunk(2), mode, (3, 3, 3)), image.chunk(2)) <= 4


def test_a_stencil_loops_over_frames_and_echoes():
    data = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 5, 6))
    image = scan(data, lead=("time", "echo"))
    expected = ndi.correlate(data, np.ones((1, 1, 3, 3, 3), int), mode="reflect")
    for i in (image, image.chunk(time=1, echo=2, z=2, y=3)):
        np.testing.assert_array_equal(smooth(i, "reflect", (1, 1, 1)), expected)


def test_an_unknown_mode_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="mode is 'edge', expected one of reflect, mirror"):
        smooth(scan(np.zeros((2, 2, 2), int)), "edge", (1, 1, 1))


# Lines.


def running_sum(block, handed_on=None, *, axis, factor):
    """Sum of all voxels before each one, which takes whole lines; overwrites what it may, and hands the block on."""
    if axis == 0:
        return np.cumsum(block, axis=0) * factor, block
    np.cumsum(block, axis=axis, out=block)
    block *= factor
    return block, handed_on


def summed(image, **options):
    return graph.map_lines(
        running_sum,
        {"image": image},
        dtypes=[np.int64, np.int64],
        params={"factor": 2},
        **options,
    )


@given(data=st.data(), shape=shapes(high=9), ndim=st.integers(1, 3))
def test_passes_along_lines_see_whole_lines_for_every_chunking(data, shape, ndim):
    image = scan(np.random.default_rng(0).integers(0, 9, shape[:ndim]))
    image.data.flags.writeable = False
    (lazy,) = data.draw(chunked(image))
    expected = image.to_numpy()
    for axis in range(ndim):
        expected = np.cumsum(expected, axis=axis) * 2
    for i in (image, lazy):
        sums, same = summed(i)
        assert sums.chunks == same.chunks == i.chunks
        np.testing.assert_array_equal(sums, expected)
        np.testing.assert_array_equal(same, image)


def test_passes_along_lines_loop_over_frames_and_echoes():
    data = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 5, 6))
    image = scan(data, lead=("time", "echo"))
    expected = np.cumsum(np.cumsum(np.cumsum(data, 2) * 2, 3) * 2, 4) * 2
    for i in (image, image.chunk(time=1, echo=2, z=2, y=3)):
        np.testing.assert_array_equal(summed(i)[0], expected)


def test_between_passes_pieces_lie_on_disk_and_are_freed_as_they_are_used(tmp_path):
    image = scan(np.zeros((24, 24, 24), int)).chunk(6)
    seen = []

    def watch(*state, axis, factor):
        seen.append(len(list(folder.iterdir())))
        return running_sum(*state, axis=axis, factor=factor)

    with graph.scratch(tmp_path) as folder:
        (sums, _) = graph.map_lines(
            watch, {"image": image}, dtypes=[np.int64] * 2, params={"factor": 2}
        )
        np.testing.assert_array_equal(sums, 0)
        assert list(folder.iterdir()) == []
    assert max(seen) > 0


# Arithmetic of chunks.


@given(data=st.data(), shape=shapes(high=40), n_lead=st.integers(0, 1))
def test_stages_of_lines_hold_whole_lines_in_blocks_no_larger_than_twice_the_chunks(
    data, shape, n_lead
):
    chunks = data.draw(chunkings(shape))
    stages = chunking.line_stages(chunks, n_lead)
    assert stages[-1][0] == chunks
    assert [axis for _, axes in stages for axis in axes] == list(range(3 - n_lead))
    largest = np.prod([max(c) for c in chunks])
    for at, axes in stages:
        assert tuple(sum(sizes) for sizes in at) == shape
        assert all(len(at[n_lead + axis]) == 1 for axis in axes)
        alone = max(shape[n_lead + axis] for axis in axes) if axes else 0
        assert np.prod([max(c) for c in at]) <= max(2 * largest, alone * max(chunks[0]))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9).map(tuple), need=st.integers(0, 20)
)
def test_merged_chunks_are_thick_enough_and_made_of_whole_ones(sizes, need):
    merged = chunking.at_least(sizes, need)
    assert sum(merged) == sum(sizes)
    assert len(merged) == 1 or min(merged) >= need
    assert set(np.cumsum(merged)) <= set(np.cumsum(sizes))


@given(sizes=st.lists(st.integers(1, 150), min_size=1, max_size=9).map(tuple))
def test_chunks_on_tiles_start_at_tiles(sizes):
    aligned = chunking.on_tiles(sizes)
    assert sum(aligned) == sum(sizes)
    assert min(aligned) > 0
    assert all(start % 64 == 0 for start in chunking.starts((aligned,))[0])
    assert len(aligned) <= len(sizes)


@given(data=st.data(), shape=shapes(ndim=2))
def test_pieces_put_every_block_together(data, shape):
    whole = np.arange(np.prod(shape)).reshape(shape)
    old, new = (a.chunks for a in data.draw(chunked(scan(whole), scan(whole))))
    for block in chunking.blocks(new):
        out = np.full([c[i] for c, i in zip(new, block, strict=True)], -1)
        for source, (to, part) in chunking.pieces(old, new, block):
            start = [chunking.starts(old)[a][i] for a, i in enumerate(source)]
            size = [old[a][i] for a, i in enumerate(source)]
            out[to] = whole[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))][part]
        start = [chunking.starts(new)[a][i] for a, i in enumerate(block)]
        np.testing.assert_array_equal(
            out, whole[tuple(slice(s, s + n) for s, n in zip(start, out.shape, strict=True))]
        )


# Graphs.


def chain(image):
    """Something with every kind of graph in it."""
    head = masks.threshold(image, above=20.0)
    level = measure.median_in(image, mask=head)
    core = masks.erode(masks.threshold(image, below=level), iterations=1)
    filled = masks.fill_holes(masks.close(core, iterations=2))
    away = measure.distance_mm(filled)
    return labels.label(filled), measure.mean_in(image, mask=filled), away


def noise(shape=(12, 14, 16)):
    return scan(
        (ndi.gaussian_filter(np.random.default_rng(5).random(shape), 1) * 200).astype(np.float32)
    )


def test_the_same_work_has_the_same_keys_and_other_work_has_others():
    image = noise().chunk(7)
    again = [set(ensure_dict(part.data.dask)) for part in chain(image)]
    assert again == [set(ensure_dict(part.data.dask)) for part in chain(image)]
    assert (
        masks.threshold(image, above=1.0).data.name != masks.threshold(image, above=2.0).data.name
    )
    assert (
        masks.threshold(image, above=1.0).data.name != masks.threshold(image, below=1.0).data.name
    )
    assert tokenize(image.data.name) != tokenize(noise().chunk(6).data.name)


@pytest.mark.parametrize("order", [1, -1])
def test_one_array_under_other_dims_is_other_work_in_the_same_computation(order):
    """Slices one by one, by a new name of the dim, next to all in space: Dask holds equal keys for equal work."""
    space = scan(noise().values > 100.0).chunk(7)
    slices = space.rename(z="slice").drop_vars("slice")

    def work(mask):
        return [
            labels.label(mask),
            masks.fill_holes(mask),
            masks.largest_component(mask),
            measure.n_voxels(mask),
            measure.median_in(mask),
            measure.distance_mm(mask),
        ]

    expected = [work(space.compute()), work(slices.compute())]
    found = dask.compute(*[work(space), work(slices)][::order])[::order]
    for ours, alone in zip(found, expected, strict=True):
        for actual, part in zip(ours, alone, strict=True):
            np.testing.assert_array_equal(actual, part)


def test_every_task_can_be_sent_to_a_worker():
    for part in chain(noise().chunk(7)):
        for task in ensure_dict(part.data.dask).values():
            pickle.loads(pickle.dumps(task))


def test_graphs_run_under_threads():
    image = noise()
    expected = [part.values for part in chain(image)]
    with dask.config.set(scheduler="threads", num_workers=4):
        for part, same in zip(chain(image.chunk(7)), expected, strict=True):
            np.testing.assert_array_equal(part, same)


@pytest.mark.cluster
@pytest.mark.slow
def test_graphs_run_on_worker_processes_with_scratch_storage(tmp_path):
    distributed = pytest.importorskip("distributed")
    image = noise()
    expected = [part.values for part in chain(image)]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
        graph.scratch(tmp_path) as folder,
    ):
        with dask.config.set(scheduler=client):
            for part, same in zip(chain(image.chunk(7)), expected, strict=True):
                np.testing.assert_array_equal(part, same)
        assert list(folder.iterdir()) == []


# Scratch storage.


def test_block_results_lie_on_disk_while_they_wait(tmp_path):
    mask = scan(np.random.default_rng(0).random((20, 20, 20)) < 0.5).chunk(5)
    seen = []

    def watch(found):
        seen.append(sum(f.stat().st_size for f in folder.iterdir()))
        return components.every(found)

    with graph.scratch(tmp_path) as folder:
        lazy = graph.join_faces({"mask": mask}, connectivity=1, rule=watch, dtype=np.int32)
        actual = lazy.values
    np.testing.assert_array_equal(actual, ndi.label(mask.values)[0])
    assert 0 < seen[0] < actual.nbytes
    assert list(tmp_path.iterdir()) == []


def test_keys_hold_no_paths(tmp_path):
    with graph.scratch(tmp_path / "somewhere") as folder:
        parts = chain(noise().chunk(7))
        settled = graph.settle(noise().chunk(7), tmp_path / "elsewhere")
    for part in (*parts, settled):
        for key in ensure_dict(part.data.dask):
            assert "somewhere" not in str(key)
            assert "elsewhere" not in str(key)
            assert folder.name not in str(key)


def test_computing_after_the_scratch_folder_is_gone_says_so(tmp_path):
    with graph.scratch(tmp_path):
        lazy = labels.label(scan(np.ones((4, 4, 4), bool)).chunk(2))
    with pytest.raises(graph.ScratchError, match="computed inside it"):
        lazy.compute()


def test_one_graph_can_be_computed_twice(tmp_path):
    mask = scan(np.random.default_rng(0).random((8, 8, 8)) < 0.5).chunk(4)
    with graph.scratch(tmp_path):
        lazy = labels.label(mask)
        np.testing.assert_array_equal(lazy.values, lazy.values)


def test_scratches_nest_and_end(tmp_path):
    mask = scan(np.ones((4, 4, 4), bool)).chunk(2)
    with graph.scratch(tmp_path) as outer:
        with graph.scratch(tmp_path) as inner:
            np.testing.assert_array_equal(labels.label(mask), 1)
        assert not inner.exists()
        np.testing.assert_array_equal(labels.label(mask), 1)
        assert outer.exists()
    assert list(tmp_path.iterdir()) == []


# Arrays that several steps need.


@given(
    data=st.data(),
    shape=shapes(high=7),
    dtype=st.sampled_from([bool, np.int16, np.float32, np.float64]),
)
def test_a_settled_array_is_the_same_array_read_from_disk(data, shape, dtype, tmp_path_factory):
    image = scan((np.random.default_rng(0).random(shape) * 2).astype(dtype))
    (lazy,) = data.draw(chunked(image))
    folder = tmp_path_factory.mktemp("settled")
    settled = graph.settle(masks.apply(lazy, lazy > 0.5), folder)
    assert len(list(folder.iterdir())) == lazy.data.npartitions
    assert settled.chunks == lazy.chunks
    assert settled.attrs == lazy.attrs
    assert len(ensure_dict(settled.data.dask)) == lazy.data.npartitions
    np.testing.assert_array_equal(settled, np.where(image > 0.5, image, 0))
    np.testing.assert_array_equal(settled, np.where(image > 0.5, image, 0))
    graph.free(settled)
    assert list(folder.iterdir()) == []
    with pytest.raises(graph.ScratchError, match="no longer in the scratch folder"):
        settled.compute()


def test_what_stands_on_a_settled_array_does_not_compute_it_again(tmp_path):
    calls = []

    def watched(block):
        calls.append(block.shape)
        return block > 0.5

    image = noise().chunk(7)
    settled = graph.settle(graph.map_points(watched, {"image": image}, dtype=bool), tmp_path)
    assert len(calls) == image.data.npartitions
    measure.n_voxels(masks.erode(settled)).compute()
    assert len(calls) == image.data.npartitions


def test_an_array_in_memory_stays_there(tmp_path):
    image = noise()
    assert graph.settle(image, tmp_path) is image
    graph.free(image)
    assert list(tmp_path.iterdir()) == []


# Rounds, and several numbers a voxel.


def whole_tiles(block, *, origin, shape, power):
    """Numbers of tiles along the last axis, and each tile's values to a power."""
    del shape
    first = origin[-1] // TILE
    cuts = range(TILE, block.shape[-1], TILE)
    parts = np.split(block, list(cuts), axis=-1)
    return np.arange(first, first + len(parts)), *(part**power for part in parts)


def added(tiles, *parts, above):
    """Tile, and sum of the values above a number."""
    return np.array(
        [[tile, part[part > above].sum()] for tile, part in zip(tiles, parts, strict=True)]
    )


@given(data=st.data(), on_disk=st.booleans())
def test_rounds_see_every_tile_once_and_in_order(data, on_disk, tmp_path_factory):
    image = scan(np.random.default_rng(0).integers(0, 99, (4, 5, 3 * TILE + 7)))
    cuts = data.draw(st.sampled_from([(199,), (1, 198), (70, 60, 69), (64, 64, 64, 7), (130, 69)]))
    lazy = image.chunk({"x": cuts})
    calls = contextlib.nullcontext()
    if on_disk:
        calls = graph.scratch(tmp_path_factory.mktemp("scratch"))
    with calls:
        kept = graph.keep(whole_tiles, {"image": lazy}, params={"power": 2})
        for above in (100, 2500):
            rows = kept.rows(added, above=above)
            squares = np.where(image.values**2 > above, image.values**2, 0)
            expected = [squares[..., i : i + TILE].sum() for i in range(0, 199, TILE)]
            np.testing.assert_array_equal(rows[:, 0], range(4))
            np.testing.assert_array_equal(rows[:, 1], expected)


def places(block, *, origin, by):
    """Voxels' own indices, and the values."""
    own = np.indices(block.shape) + np.reshape(origin, (3, 1, 1, 1))
    return np.concatenate([own, block[None] * by]).astype(np.int32)


@given(data=st.data(), shape=shapes(high=9))
def test_vectors_know_where_a_voxel_lies_for_every_chunking(data, shape):
    image = scan(np.random.default_rng(0).integers(0, 99, shape))
    (lazy,) = data.draw(chunked(image))
    call = partial(
        graph.map_vectors,
        places,
        dim="of",
        names=["z", "y", "x", "v"],
        dtype=np.int32,
        params={"by": 2},
    )
    with nothing_computed():
        found = call({"image": lazy})
    assert found.chunks == ((4,), *lazy.chunks)
    assert tasks_per_block(found, lazy) == 1
    expected = np.concatenate([np.indices(shape), 2 * image.values[None]])
    np.testing.assert_array_equal(found, expected)
    xr.testing.assert_identical(found.compute(), call({"image": image}))
    assert found.of.values.tolist() == ["z", "y", "x", "v"]
    np.testing.assert_array_equal(found.x, image.x)
