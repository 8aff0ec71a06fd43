"""OME-Zarr as a viewer reads it: NiiVue in a real browser, over HTTP, by ranges of bytes, with no other network."""

import os
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import numpy as np
import pytest
import xarray as xr

from cohort import schema
from cohort.io.exports.ngff import write_ngff

pytestmark = pytest.mark.slow

PAGE = """<!doctype html><title>test</title><script type="module">
import { NVImage } from "/niivue.js";
window.load = async (url) => {
  const image = await NVImage.loadFromUrl({ url, name: "level.zarr" });
  return { dims: Array.from(image.hdr.dims), voxels: Array.from(image.img) };
};
window.ready = true;
</script>"""


class Ranges(SimpleHTTPRequestHandler):
    """Files of a folder, whole or in part; counts what was asked in part."""

    def __init__(self, *args, parts, **kwargs):
        self.parts = parts
        super().__init__(*args, **kwargs)

    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        path = self.translate_path(self.path)
        if asked is None or not os.path.isfile(path):  # noqa: PTH113
            super().do_GET()
            return
        size = os.path.getsize(path)  # noqa: PTH202
        first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", asked).groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(int(last) + 1, size) if first and last else size
        with open(path, "rb") as stream:  # noqa: PTH123
            stream.seek(start)
            content = stream.read(stop - start)
        self.parts.append((self.path, start, stop))
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def site(tmp_path):
    parts = []
    handler = partial(Ranges, directory=str(tmp_path), parts=parts)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", parts
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def page(site, tmp_path):
    """A page that has NiiVue out of the wheel of ipyniivue."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is not installed (apt-get install chromium)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    wheel = metadata.distribution("ipyniivue")
    source = wheel.locate_file("ipyniivue/static/widget.js").read_text(encoding="utf-8")
    # The bundle exports its widget alone; the class that loads images is in it by a name that changes with every build.
    inner = re.search(r"await ([\w$]+)\.fetchDicomData\(", source)[1]
    image = re.search(rf"([\w$]+)=class {re.escape(inner)}\b", source)[1]
    (tmp_path / "niivue.js").write_text(f"{source}\nexport {{ {image} as NVImage }};")
    (tmp_path / "index.html").write_text(PAGE)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
            env={**os.environ, "HOME": str(tmp_path)},
        )
        opened = browser.new_page()
        opened.goto(site[0])
        opened.wait_for_function("window.ready", timeout=60_000)
        yield opened
        browser.close()


def test_niivue_reads_every_level_voxel_for_voxel(page, site, tmp_path):
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    z, y, x = np.ogrid[:20, :70, :150]
    values = ((3 * z + y + 2 * x) % 251).astype(np.uint8)  # asymmetric: an axis mixed up would show
    image = schema.make_scan(values, affine)["image"]
    assert write_ngff(image, tmp_path / "scan.ome.zarr", name="a") == 3
    for level in range(3):
        stored = xr.DataArray(_level(tmp_path, level), dims=("z", "y", "x"))
        got = page.evaluate("url => load(url)", f"{site[0]}/scan.ome.zarr/{level}")
        voxels = np.array(got["voxels"], np.uint8)
        assert voxels.size == stored.size
        # This version of NiiVue takes the first axis of a plain array for the height of a picture; its order is C's.
        assert sorted(got["dims"][1:4]) == sorted(stored.shape)
        np.testing.assert_array_equal(voxels, stored.values.ravel())
    finest = [part for part in site[1] if "/scan.ome.zarr/0/" in part[0]]
    assert len(finest) >= 4, "an index and three chunks of one shard, each by its range"


def _level(folder, level):
    import zarr

    return zarr.open_array(folder / f"scan.ome.zarr/{level}", mode="r")[...]
