"""Work that ends badly in every way there is, importable by the processes of workers."""

import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np

ENDS = ("segfault", "abort", "exit", "killed")
"""What ends the process of a scan."""

DEADLY = 7777
"""A voxel that no other scan has."""


def square(number: int) -> int:
    """The square."""
    return number * number


def play(item: tuple[str, int]) -> int:
    """Do what an item says; the square of its number, if it comes to that."""
    what, number = item
    match what:
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "killed":
            os.kill(os.getpid(), 9)
        case "sys.exit":
            sys.exit(2)
        case "refuse":
            raise ValueError("thirteen is refused")
        case "io":
            raise OSError("seventeen is out of reach")
        case "sleep":
            time.sleep(3600)
        case "spin":
            # One bytecode that holds the interpreter's lock for hours.
            pow(3, 1 << 34)
        case "huge":
            return int(np.ones(1 << 30).sum())
        case "grow":
            held = []
            while True:
                held.append(bytearray(b"1" * (16 << 20)))
    return square(number)


def once(item: tuple[str, str]) -> str:
    """End the process the first time an item is played, as damage by an earlier scan would; then its name."""
    folder, name = item
    try:
        os.close(os.open(os.path.join(folder, name), os.O_CREAT | os.O_EXCL))  # noqa: PTH118
    except FileExistsError:
        return name
    os.abort()


def pids(_: int) -> tuple[int, int]:
    """Process of a scan, and of the worker above it."""
    return os.getpid(), os.getppid()


def read_and_burn(file: str) -> int:
    """Read a file whole and compute for 0.3 s of CPU; nothing if there is none."""
    if not os.path.exists(file):  # noqa: PTH110
        return 0
    with open(file, "rb") as stream:  # noqa: PTH123
        content = stream.read()
    end = time.process_time() + 0.3
    while time.process_time() < end:
        sum(content[:10000])
    return len(content)


def how_many(item: tuple[str, str]) -> int:
    """Stay for a while; the most scans that were seen there at a time."""
    folder, name = (Path(part) for part in item)
    mark = folder / f"{name}.here"
    mark.touch()
    most = 0
    for _ in range(20):
        most = max(most, len(list(folder.glob("*.here"))))
        time.sleep(0.02)
    mark.unlink()
    return most


def slowly(block: np.ndarray) -> np.ndarray:
    """A block that takes an hour."""
    time.sleep(3600)
    return block


def deadly(block: np.ndarray, result: np.ndarray) -> np.ndarray:
    """The result that goes with a block; one with `DEADLY` in it ends its process, as a library that crashes on it does."""
    if (block == DEADLY).any():
        ctypes.string_at(0)
    return result
