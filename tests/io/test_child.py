"""The decoding child: the same frames as in this process, and no death, hang, hunger or nonsense of it gets further."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from series import phantom, write_series

from cohort.io.refusal import Refused
from cohort.io.slices import child
from cohort.io.slices.child import Child, ChildError
from cohort.io.slices.dicom_header import read_slices
from cohort.io.slices.pixels import decode_frame

SYNTAXES = {
    "rle": "1.2.840.10008.1.2.5",
    "jpeg lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg 2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}

DECODER = """
import ctypes, os, resource, sys, time
import numpy as np
from cohort.io.slices.child import serve
from cohort.io.refusal import Refused

class Hidden:
    def __del__(self): raise RuntimeError("John Doe")

def decode(path, header):
    match path.name:
        case "hide": Hidden()
        case "crash": ctypes.string_at(0)
        case "abort": os.abort()
        case "leave": os._exit(3)
        case "hang":
            while True: pass
        case "bomb": return np.ones(1 << 30, np.uint8)
        case "covered":
            try: bytearray(1 << 40)
            except MemoryError as error: raise Refused("DCM-PIXELS", "covered", fix="none.") from error
        case "damaged": raise KeyError("John Doe")
        case "refuse": raise Refused("DCM-SYNTAX", "no decoder for {0}", fix="find one.")
        case "large": return np.zeros((3, 4, 3), np.uint8)
        case "float": return np.zeros((header["rows"], header["columns"]))
        case "print":
            os.write(1, b"a library greets" * 99)
            print("so does Python", flush=True)
        case "write":
            with open(path, "wb", buffering=0) as file: file.write(b"x")
        case "limits":
            kinds = resource.RLIMIT_CORE, resource.RLIMIT_FSIZE
            return np.array([resource.getrlimit(kind) for kind in kinds], np.int32)
    return np.full((header["rows"], header["columns"]), header["instance"], ">i2")

serve(decode)
"""


@pytest.fixture
def spoilt():
    """A child whose decoder does what the name of the file says."""
    made = Child([sys.executable, "-c", DECODER])
    yield made
    made.close()


@pytest.fixture
def real():
    made = Child()
    yield made
    made.close()


def asked(rows=4, columns=3, instance=7):
    return {"rows": rows, "columns": columns, "instance": instance}


def refused(one, path, match, *, code="DCM-PIXELS", **options):
    with pytest.raises(Refused, match=match) as caught:
        one.decode(path, asked(), **options)
    assert caught.value.code == code
    assert caught.value.files == (path,)
    assert caught.value.state == "quarantined"
    assert str(path) not in str(caught.value)


def gone(pid):
    """Whether a process ends within some seconds; what nobody has buried yet has ended too."""
    for _ in range(400):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def compressed(folder, syntax, shape=(4, 16, 12)):
    volume, affine = phantom(shape, dtype=np.uint16)
    files = write_series(folder, volume, affine, syntax=SYNTAXES[syntax])
    return [(path, *headers(path)) for path in files]


def headers(path):
    with path.open("rb") as stream:
        return read_slices(stream, path)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_child_gives_what_this_process_would(syntax, tmp_path, real):
    for path, read in compressed(tmp_path, syntax):
        here, there = decode_frame(path, read), real.decode(path, read)
        np.testing.assert_array_equal(there, here)
        assert there.dtype == here.dtype.newbyteorder("=")


def test_one_child_serves_every_thread_and_every_frame(tmp_path):
    frames = compressed(tmp_path, "rle", shape=(12, 16, 12)) * 10
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda frame: child.decode(*frame), frames))
    pids = {p.pid for p in psutil.Process().children() if "cohort.io.slices.child" in p.cmdline()}
    assert len(pids) == 1
    for (path, read), frame in zip(frames, decoded, strict=True):
        np.testing.assert_array_equal(frame, decode_frame(path, read))


def test_threads_never_get_each_others_frames(spoilt):
    def ask(number):
        frame = spoilt.decode(os.devnull, asked(200 + number % 7, 90, number))
        return frame.shape == (200 + number % 7, 90) and (frame == number).all(), spoilt.pid

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(400)))
    assert all(right for right, _ in answers)
    assert len({pid for _, pid in answers}) == 1


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_damaged_stream_is_refused_or_decoded(syntax, tmp_path, real):
    rng = np.random.default_rng(5)
    path, read = compressed(tmp_path, syntax, shape=(1, 16, 12))[0]
    whole = path.read_bytes()
    refusals = 0
    start = read["pixel_offset"]
    for _ in range(25):
        data = bytearray(whole)
        for place in start + rng.integers(8, len(whole) - start, 3):
            data[place] = int(rng.integers(256))
        path.write_bytes(data[: len(whole) - int(rng.integers(0, 40))])
        try:
            there = real.decode(path, read, seconds=1)
        except Refused as error:
            assert error.code in ("DCM-PIXELS", "DCM-TRUNCATED")  # noqa: PT017 - either end is right
            refusals += 1
        else:
            assert there.shape == (16, 12)
    assert refusals
    path.write_bytes(whole)
    np.testing.assert_array_equal(real.decode(path, read), decode_frame(path, read))


@pytest.mark.parametrize(
    ("name", "end"),
    [("crash", "SIGSEGV"), ("abort", "SIGABRT"), ("leave", "exit code 3")],
)
def test_a_crash_is_named_and_costs_one_frame(name, end, spoilt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoilt.decode(tmp_path / "x", asked())
    first = spoilt.pid
    refused(spoilt, tmp_path / name, rf"the decoder crashes \({end}\) on file 1")
    assert not psutil.pid_exists(first)
    assert (spoilt.decode(tmp_path / "x", asked()) == 7).all()
    assert spoilt.pid != first
    assert list(tmp_path.iterdir()) == []


def test_a_hang_ends_in_time(spoilt, tmp_path):
    spoilt.decode(tmp_path / "x", asked())
    first, start = spoilt.pid, time.monotonic()
    refused(spoilt, tmp_path / "hang", "no answer within 0.5 s for file 1", seconds=0.5)
    assert 0.5 <= time.monotonic() - start < 3
    assert not psutil.pid_exists(first)


@pytest.mark.parametrize("name", ["bomb", "covered"])
def test_hunger_is_named_and_the_child_lives_on(name, spoilt, tmp_path):
    spoilt.decode(tmp_path / "x", asked())
    first = spoilt.pid
    refused(spoilt, tmp_path / name, "needs more than 256 MB for file 1", memory=256 << 20)
    assert spoilt.pid == first


def test_memory_is_limited_frame_by_frame(spoilt, tmp_path):
    size = asked(1 << 15, 1 << 12)  # 256 MB
    with pytest.raises(Refused, match="more than 200 MB"):
        spoilt.decode(tmp_path / "x", size, memory=200 << 20)
    assert spoilt.decode(tmp_path / "x", size, memory=1 << 30).shape == (1 << 15, 1 << 12)


def test_what_a_decoder_says_is_told_without_its_words(spoilt, tmp_path):
    refused(spoilt, tmp_path / "damaged", r"finds damage \(KeyError\) in file 1\. Fix: [^J]*$")
    refused(spoilt, tmp_path / "hide", r"finds damage \(RuntimeError\) in file 1")
    refused(spoilt, tmp_path / "refuse", "no decoder for file 1. Fix: find one", code="DCM-SYNTAX")
    refused(spoilt, tmp_path / "large", "compressed image is 3 x 4 x 3 but its header says 4 x 3")
    refused(spoilt, tmp_path / "float", "an answer that is none for file 1")


def test_damage_that_a_decoder_cannot_raise_is_told(tmp_path, real):
    path, read = compressed(tmp_path, "htj2k", shape=(1, 16, 12))[0]
    whole = path.read_bytes()
    start = whole.index(b"\xff\x93") + 2  # where coded data begin
    told = []
    for place in range(start, start + 40):
        path.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
        try:
            real.decode(path, read)
        except Refused as refusal:
            told.append(str(refusal))
    assert any("finds damage (RuntimeError)" in words for words in told)


def test_what_libraries_print_disturbs_nobody(spoilt, tmp_path):
    assert (spoilt.decode(tmp_path / "print", asked()) == 7).all()
    assert (spoilt.decode(tmp_path / "x", asked()) == 7).all()


def test_a_child_leaves_no_core_and_writes_no_file(spoilt, tmp_path):
    limits = spoilt.decode(tmp_path / "limits", asked(2, 2)).tolist()
    assert limits == [[1, 1], [0, 0]]
    strict = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))" + DECODER
    limits = Child([sys.executable, "-c", strict]).decode(tmp_path / "limits", asked(2, 2))
    assert limits.tolist() == [[0, 0], [0, 0]]
    refused(spoilt, tmp_path / "write", r"finds damage \(OSError\)")
    assert (tmp_path / "write").stat().st_size == 0


GREETING = "import sys, time; print('{\"ready\": true}', flush=True); sys.stdin.readline(); "
NONSENSE = {
    "no JSON": r"print('\0\xff' * 9, flush=True)",
    "no end": "print('x' * 200_000, flush=True)",
    "other JSON": "print('[1, 2]', flush=True)",
    "deep JSON": "print('[' * 60_000, flush=True)",
    "other pixels": 'print(\'{"dtype": "O"}\', flush=True)',
    "too many pixels": "print('{\"dtype\": \"uint8\"}' + chr(10) + 'x' * 13, flush=True)",
    "a name with spaces": 'print(\'{"failed": "John Doe"}\', flush=True)',
    "half a refusal": 'print(\'{"refused": ["DCM-PIXELS"]}\', flush=True)',
    "a refusal and more": 'print(\'{"refused": ["A", "B", "C"]}\' + chr(10) + \'x\', flush=True)',
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_the_child(nonsense, tmp_path):
    one = Child([sys.executable, "-c", GREETING + nonsense + "; time.sleep(60)"])
    refused(one, tmp_path / "x", "an answer that is none for file 1")
    assert one.pid is None


def test_half_a_frame_is_no_frame(tmp_path):
    half = GREETING + "print('{\"dtype\": \"uint8\"}' + chr(10) + 'x' * 11, end='', flush=True)"
    one = Child([sys.executable, "-c", half])
    refused(one, tmp_path / "x", "crashes .exit code 0. on file 1")
    one = Child([sys.executable, "-c", half + "; time.sleep(60)"])
    refused(one, tmp_path / "x", "no answer within 0.5 s", seconds=0.5)


def test_a_child_that_does_not_listen_holds_nobody_up(tmp_path):
    deaf = Child([sys.executable, "-c", GREETING.replace("sys.stdin.readline()", "time.sleep(60)")])
    long = asked() | {"image_type": ["x" * 1_000_000]}
    start = time.monotonic()
    with pytest.raises(Refused, match=r"no answer within 0\.5 s"):
        deaf.decode(tmp_path, long, seconds=0.5)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("code", ["import sys; sys.exit(4)", "print('hello', flush=True)"])
def test_a_child_that_does_not_start_is_no_fault_of_a_file(code, tmp_path):
    one = Child([sys.executable, "-c", code])
    with pytest.raises(ChildError, match=r"does not start \(exit code"):
        one.decode(tmp_path, asked())


def test_a_child_that_died_between_two_frames_is_replaced(spoilt, tmp_path):
    spoilt.decode(tmp_path / "x", asked())
    first = spoilt.pid
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    assert (spoilt.decode(tmp_path / "x", asked()) == 7).all()
    assert spoilt.pid != first


def test_a_request_that_cannot_be_sent_leaves_nothing_behind(spoilt, tmp_path):
    with pytest.raises(TypeError):
        spoilt.decode(tmp_path, asked() | {"instance": object()})
    assert (spoilt.decode(tmp_path / "x", asked()) == 7).all()


PARENT = """
import os, signal, sys, threading, time
from pathlib import Path
from cohort.io.slices import child
one = child.Child([sys.executable, "-c", sys.argv[1]])
header = {"rows": 4, "columns": 3, "instance": 7}
one.decode(Path("x"), header)
print(one.pid, flush=True)
"""
ENDS = {
    "leaves": "",
    "fails": "raise SystemExit(5)",
    "leaves at once": "os._exit(0)",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "forgets it": "first = one.pid; one = None; print(os.path.exists(f'/proc/{first}'), flush=True); time.sleep(9)",
}


def parent(end, *, wait=True):
    """Run a parent that ends in some way; the pid of its child, and what it said last."""
    script = [sys.executable, "-c", PARENT + end, DECODER]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        last = process.stdout.readline() if not wait else ""
        if not wait:
            process.kill()
    return pid, last.strip()


@pytest.mark.parametrize("end", ENDS)
def test_a_child_ends_with_its_parent(end):
    pid, last = parent(ENDS[end], wait=end != "forgets it")
    assert gone(pid)
    assert last in ("", "False")


def test_a_child_that_hangs_does_not_outlive_its_parent(monkeypatch):
    hang = (
        "threading.Thread(target=one.decode, args=(Path('hang'), header), kwargs={'seconds': 1.5}).start()\n"
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    decoder = DECODER.replace(
        "import ctypes",
        "from cohort.io.slices import child; child._GRACE_SECONDS = 0\nimport ctypes",
    )
    monkeypatch.setitem(globals(), "DECODER", decoder)
    pid, _ = parent(hang)
    assert gone(pid)


def test_a_fork_has_a_child_of_its_own(tmp_path):
    path, read = compressed(tmp_path, "rle")[0]
    script = f"""
import json, os, sys
from pathlib import Path
from cohort.io.slices import child
path, header = Path({str(path)!r}), json.loads({json.dumps(read)!r})
def pid():
    child.decode(path, header)
    return child._child_of(os.getpid()).pid
first = pid()
if os.fork() == 0:
    print("fork", first, pid(), flush=True)
    raise SystemExit
_, status = os.wait()
print("parent", first, pid(), status, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    fork, own = (line.split() for line in done.stdout.splitlines())
    assert fork[1] != fork[2]
    assert own[1:] == [fork[1], fork[1], "0"]
    assert gone(int(fork[1]))
    assert gone(int(fork[2]))
    assert done.stderr == ""


def test_the_child_loads_only_what_decoding_needs():
    code = "import sys, cohort.io.slices.child, cohort.io.slices.pixels; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"dask", "xarray", "pandas", "zarr", "imagecodecs", "pydantic"}


def test_waiting_for_the_lock_is_no_time_of_the_frame(spoilt, tmp_path):
    spoilt.decode(tmp_path / "x", asked())
    busy = threading.Thread(
        target=refused, args=(spoilt, tmp_path / "hang", "no answer"), kwargs={"seconds": 1.0}
    )
    busy.start()
    time.sleep(0.2)
    assert (spoilt.decode(tmp_path / "x", asked(), seconds=0.6) == 7).all()
    busy.join()
