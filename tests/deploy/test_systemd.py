"""The service and its timer: sound for systemd, shut in, and what ExecStart says does what the unit promises."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from renderings import missing, planted, render, study, survey, tool

from cohort.deployment.files import BESIDE_BYTES, DRIVER_BYTES

UNIT = "cohort-balls"


@pytest.fixture
def units(tmp_path):
    catalog = study(tmp_path)
    return catalog, render("systemd", catalog, tmp_path / "out", workers=1, memory="1GiB")


def verify(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *paths],
        check=False,
        capture_output=True,
        text=True,
    )


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What it says of our units; other units of the machine are its own affair."""
    return [line for line in done.stderr.splitlines() if UNIT in line]


def settings(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("=", 1)) for line in lines if "=" in line and line[0] not in "#;"]


def words(text: str) -> list[str]:
    """Split and unquote as systemd.syntax(7) says, with specifiers and dollar signs written double."""
    found = []
    for match in re.finditer(r'"((?:[^"\\]|\\.)*)"|(\S+)', text):
        word = match[1] if match[1] is not None else match[2]
        found.append(re.sub(r"\\(.)", r"\1", word).replace("%%", "%").replace("$$", "$"))
    return found


def test_systemd_finds_nothing_to_say(units):
    _, files = units
    assert sorted(files) == [f"{UNIT}.service", f"{UNIT}.timer"]
    done = verify(*files.values())
    assert (done.returncode, complaints(done)) == (0, []), done.stderr


MISTAKES = {
    "a calendar": (".timer", "OnCalendar=*-*-* 03:00:00", "OnCalendar=*-*-* 25:00:00"),
    "a section": (".timer", "[Timer]", "[Timr]"),
    "a setting": (".service", "SuccessExitStatus=", "SuccesExitStatus="),
    "a value": (".service", "KillMode=mixed", "KillMode=mixd"),
    "a limit that means nothing": (".service", "TimeoutStartSec=23h", "RuntimeMaxSec=23h"),
    "a program": (".service", "ExecStart=", "ExecStart=/nowhere"),
    "a call": (".service", "@system-service", "@sytem-service"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_systemd_finds_a_planted_mistake(units, tmp_path, mistake):
    _, files = units
    suffix, old, new = MISTAKES[mistake]
    (tmp_path / "planted").mkdir()
    copies = [
        planted(
            path,
            *((old, new) if path.suffix == suffix else ("[Unit]", "[Unit]")),
            tmp_path / "planted",
        )
        for path in files.values()
    ]
    done = verify(*copies)
    assert done.returncode != 0 or complaints(done), done.stderr


def test_the_unit_is_shut_in(units):
    """`systemd-analyze security` counts what a service could do that it need not: 10 is all, ours stays under 2."""
    _, files = units
    command = [tool("systemd-analyze"), "security", "--offline=yes", "--threshold=20"]
    done = subprocess.run(
        [*command, files[f"{UNIT}.service"]], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-300:]
    bare = files[f"{UNIT}.service"].with_name("bare.service")
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    assert subprocess.run([*command, bare], check=False, capture_output=True).returncode != 0


def test_every_word_comes_out_as_it_went_in(units):
    catalog, files = units
    found = settings(files[f"{UNIT}.service"])
    program = Path(sys.executable).with_name("cohort")
    (start,) = [words(value) for name, value in found if name == "ExecStart"]
    assert start == [str(program), "update", str(catalog), "--workers", "1", "--memory", "1024MiB"]
    writable = [word for name, value in found if name == "ReadWritePaths" for word in words(value)]
    private = [
        f"{os.environ[x]}/cohort" for x in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
    ]
    assert writable == [str(catalog.parent / "store"), *private]


def test_nothing_is_far_away_or_the_network_is_there(units, tmp_path):
    catalog, files = units
    assert ("PrivateNetwork", "yes") in settings(files[f"{UNIT}.service"])
    on = tmp_path / "tls.yaml"
    on.write_text("cluster: scheduler\naddress: tls://head:8786\ntls: {ca: a, cert: b, key: c}\n")
    far = settings(render("systemd", catalog, tmp_path / "far", on=str(on))[f"{UNIT}.service"])
    assert "PrivateNetwork" not in dict(far)
    assert ("After", "network-online.target") in far
    assert f"--on {on}" in dict(far)["ExecStart"]


def test_a_call_has_time_to_stop_and_must_end_before_the_next(units):
    _, files = units
    found = dict(settings(files[f"{UNIT}.service"]))
    assert int(found["TimeoutStopSec"]) > 30
    assert found["Type"] == "oneshot"
    assert found["TimeoutStartSec"] == "23h"
    assert int(found["MemoryMax"]) == (1 << 30) + BESIDE_BYTES + DRIVER_BYTES


class Service:
    """Does what systemd does with a service of these settings, as far as a process without its rights can."""

    def __init__(self, path: Path) -> None:
        found = settings(path)
        self.command = next(words(value) for name, value in found if name == "ExecStart")
        pairs = [word for name, value in found if name == "Environment" for word in words(value)]
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"} | dict(
            p.split("=", 1) for p in pairs
        )
        self.good = {0} | {int(value) for name, value in found if name == "SuccessExitStatus"}
        self.writable = [
            word for name, value in found if name == "ReadWritePaths" for word in words(value)
        ]
        self.stop_seconds = int(dict(found)["TimeoutStopSec"])

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, env=self.environment, cwd="/", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *, timeout: float = 200) -> tuple[int, str]:
        with self.start() as process:
            said = process.communicate(timeout=timeout)
        return process.returncode, "".join(said)


@pytest.mark.slow
@pytest.mark.cluster
def test_the_life_of_the_timer(tmp_path):
    """0: all accounted for. 1: a scan was refused in this call. 75: somebody holds the store; stopped by SIGTERM."""
    from cohort.io.store import Store

    catalog = study(tmp_path, scans=6)
    service = Service(render("systemd", catalog, tmp_path / "out", workers=1)[f"{UNIT}.service"])
    assert service.good == {0, 75}

    code, said = service.run()
    assert code == 0, said
    assert "6 done" in said

    bad = catalog.parent / "scans/000_v1.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:300])
    code, said = service.run()
    assert (code, "000_v1.nii.gz" in said) == (1, True), said
    assert code not in service.good
    bad.write_bytes(whole)

    with Store(catalog.parent / "store").lock():
        code, said = service.run()
    assert code == 75, said
    assert code in service.good

    runs = catalog.parent / "store/runs"
    before = set(runs.iterdir())
    with service.start() as process:
        # Told to stop when it is at work, which its new run shows.
        until = time.monotonic() + 120
        while process.poll() is None and set(runs.iterdir()) == before:
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        said = "".join(process.communicate(timeout=service.stop_seconds))
    assert process.returncode == 75, said
    assert re.search("stopped|interrupted", said)
    code, said = service.run()
    assert code == 0, said
    assert "6" in said


@pytest.mark.slow
@pytest.mark.cluster
def test_it_writes_only_where_the_unit_lets_it(tmp_path):
    """With everything mounted read-only but ReadWritePaths and a /tmp of its own, and no network but loopback."""
    if (
        os.getuid()
        or subprocess.run(["unshare", "--mount", "--net", "true"], check=False).returncode
    ):
        missing("mount and network namespaces are not to be had here")
    # Not below /tmp: the service has one of its own.
    catalog = study(tmp_path)
    service = Service(render("systemd", catalog, tmp_path / "out", workers=1)[f"{UNIT}.service"])
    for folder in service.writable:
        Path(folder).mkdir(parents=True, exist_ok=True)
    script = r"""
        set -e
        ip link set lo up
        for folder in "$@"; do
            [ "$folder" = -- ] && break
            mount --bind "$folder" "$folder"
        done
        mkdir -p "$SCRATCH"; mount -t tmpfs none "$SCRATCH"
        mount -o remount,bind,ro /
        ! touch /cohort-was-here 2>/dev/null
        while [ "$1" != -- ]; do shift; done; shift
        exec "$@"
    """
    scratch = tmp_path / "scratch"
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script, "sh", *service.writable, "--", *service.command],
        env=service.environment | {"SCRATCH": str(scratch), "TMPDIR": str(scratch)},
        check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 done" in done.stdout
    assert survey(catalog).store is not None
