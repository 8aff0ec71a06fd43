"""What is planted in every process of a run under test: Python imports a module of this name before anything else.

The folder of this file goes first in ``PYTHONPATH`` and ``COHORT_FAULT`` says what to plant, as JSON; without it nothing
happens. Only what the page of faults asks a wrapper for is planted here; the modules of the package are changed after
they were imported, in drivers, workers and their children alike.
"""

import ctypes
import importlib.util
import io
import json
import os
import random
import sys
import time
from pathlib import Path

FIRST_MARK = 10_000.0
"""A voxel of this value or above in an image tells a step what to do to the process."""

MARKS = ("segfault", "abort", "exit", "sleep", "hold", "creep", "bomb")
"""In the order of their marks."""


class After:
    """Changes a module once it was imported."""

    def __init__(self, name, change):
        self.name, self.change = name, change

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def changed(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = changed
        return spec


def after(name, change):
    sys.meta_path.insert(0, After(name, change))


def misbehave(kind, limit):
    """Do to this process what the image asks for."""
    if kind == "segfault":
        ctypes.string_at(0)
    elif kind == "abort":
        os.abort()
    elif kind == "exit":
        sys.exit("a library ends the process")
    elif kind == "sleep":
        time.sleep(3600)
    elif kind == "hold":
        ctypes.PyDLL(None).sleep(3600)  # in C, and the interpreter's lock with it
    elif kind == "creep":
        held = []
        while len(held) << 26 < 3 * limit:  # an end, should nobody stop it
            held.append(b"\1" * (1 << 26))
            time.sleep(0.02)
    elif kind == "bomb":
        b"\1" * (8 << 30)


def obey(block, limit):
    """The block, unless a mark in it says otherwise."""
    largest = float(block.max()) if block.size else 0.0
    if largest >= FIRST_MARK:
        kind = MARKS[int(largest - FIRST_MARK)]
        note(kind)
        misbehave(kind, limit)
    return block


def plant_marks(pace, limit):
    """A step that takes `pace` seconds a scan, and does what a marked image asks for."""

    def change(module):
        import functools

        plain = module.threshold

        @functools.wraps(plain)
        def threshold(image, **parameters):
            if parameters.get("above") == 0:
                time.sleep(pace)
                if hasattr(image.data, "dask"):
                    data = image.data.map_blocks(obey, limit, dtype=image.dtype)
                    image = image.copy(data=data)
                else:
                    obey(image.data, limit)
            return plain(image, **parameters)

        module.threshold = threshold

    after("cohort.ops.masks", change)


def plant_flaky(folder, chance, seed):
    """Reading a file below a folder, or one file, fails with EIO at times: one read in 1 / chance."""
    numbers = random.Random(f"{seed} {os.getpid()}")

    def fail():
        if numbers.random() < chance:
            note("eio")
            raise OSError(5, os.strerror(5))

    class Flaky(io.FileIO):
        def read(self, size=-1):
            fail()
            return super().read(size)

        def readinto(self, buffer):
            fail()
            return super().readinto(buffer)

        def readall(self):
            fail()
            return super().readall()

    plain = io.open

    def opened(file, mode="r", buffering=-1, *arguments, **keywords):
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else ""
        is_inside = name == folder or name.startswith(f"{folder}/")
        if not is_inside or mode != "rb":
            return plain(file, mode, buffering, *arguments, **keywords)
        raw = Flaky(file, "r")
        return raw if buffering == 0 else io.BufferedReader(raw)

    import builtins

    builtins.open = io.open = opened


def plant_clock(kind):
    """Clocks that are a day ahead, a day off in either direction, or that go back an hour as they are asked."""
    plain = time.time
    if kind in ("ahead", "apart"):
        offset = 86_400.0 if kind == "ahead" or os.getpid() % 2 else -86_400.0
        time.time = lambda: plain() + offset
    else:
        asked = iter(range(1 << 60))
        time.time = lambda: plain() - (3600.0 if next(asked) > 200 else 0.0)
    note("clock")


def plant_patience(seconds):
    """An object store is given up sooner."""

    def change(module):
        plain = module.connect
        module.connect = lambda name: plain(name, retry_s=seconds)

    after("cohort.io.storage.objects", change)


def plant_version(package, version):
    """A library of another version, as far as anybody who asks is told."""
    from importlib import metadata

    plain = metadata.version
    metadata.version = lambda name: version if name == package else plain(name)
    note("version")


def note(what):
    """Tell the test that something was planted, or broke."""
    if notes := os.environ.get("COHORT_FAULT_NOTES"):
        with Path(notes).open("ab", buffering=0) as stream:
            stream.write(f"{what} {os.getpid()} {time.monotonic()}\n".encode())


PLANTS = {
    "marks": plant_marks,
    "flaky": plant_flaky,
    "clock": plant_clock,
    "patience": plant_patience,
    "version": plant_version,
}

for planted, given in json.loads(os.environ.get("COHORT_FAULT", "{}")).items():
    PLANTS[planted](*given)
# A crash that is planted leaves no core file.
if "COHORT_FAULT" in os.environ:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
