"""The line for cron: its syntax, what the shell makes of it, and two calls that overlap."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from renderings import planted, render, study, tool

from cohort.deployment.files import CRON_LINE
from cohort.deployment.quoting import cron_line
from cohort.deployment.refusal import DeployError

FILE = "cohort-balls.cron"
BARE = {"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "HOME": "/"}
"""All that cron gives a command."""


ENDED = r"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{{4}} ended with exit code {code}\n"
"""What the log says of every call."""


def line(path: Path) -> tuple[str, str]:
    """When, and the command as cron hands it to the shell: a bare percent sign would end it."""
    (text,) = [t for t in path.read_text(encoding="utf-8").splitlines() if not t.startswith("#")]
    assert not re.search(r"(?<!\\)%", text)
    when, command = re.fullmatch(r"((?:\S+ ){5})(.*)", text).groups()
    return when.strip(), command.replace("\\%", "%")


def lock_of(command: str) -> Path:
    """The lock of its calls; their log lies beside it."""
    assert "$at.lock" in shlex.split(command)
    return Path(shlex.split(command)[0].removeprefix("at=").removesuffix(";") + ".lock")


def start(command: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["/bin/sh", "-c", command], env=BARE, cwd="/", stdin=subprocess.DEVNULL)


def is_locked(path: Path) -> bool:
    """Whether somebody holds it; who tried to take it would be in the way."""
    return path.exists() and f":{path.stat().st_ino} " in Path("/proc/locks").read_text()


@pytest.fixture
def private(tmp_path, monkeypatch):
    """The private folders are there, as the first command that is printed makes them."""
    folders = {
        n: tmp_path / "pri vate" / n
        for n in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
    }
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(folder))
        (folder / "cohort").mkdir(parents=True)
    return folders


def check(path: Path) -> int:
    return subprocess.run(
        [tool("crontab"), "-n", path], check=False, capture_output=True
    ).returncode


def cron_reads(text: str) -> str:
    """A command as cron's `do_command.c` takes it: a backslash keeps a percent sign or a backslash, any other stays."""
    out, escaped = "", False
    for letter in text:
        if escaped:
            out = out[:-1] + letter if letter in "%\\" else out + letter
            escaped = False
            continue
        if letter == "%":
            return out
        out, escaped = out + letter, letter == "\\"
    return out


@given(text=st.text(st.sampled_from("ab %\\'")))
def test_cron_reads_the_command_that_was_meant(text):
    assert cron_reads(cron_line(text)) == text


def test_cron_takes_it_and_finds_a_planted_mistake(tmp_path):
    (path,) = render("cron", study(tmp_path), tmp_path / "out", schedule="Mon-Fri 04:05").values()
    assert path.name == FILE
    assert line(path)[0] == "5 4 * * 1,2,3,4,5"
    assert check(path) == 0
    (tmp_path / "planted").mkdir()
    for old, new in [("5 4 *", "5 24 *"), ("* 1,2", "* 1,8"), ("5 4 * * 1,2,3,4,5 ", "5 4 * * ")]:
        assert check(planted(path, old, new, tmp_path / "planted")) != 0, new


def test_the_shell_reads_every_word_as_it_was_meant(tmp_path, private):
    catalog = study(tmp_path)
    (path,) = render("cron", catalog, tmp_path / "out", workers=2).values()
    _, command = line(path)
    words = shlex.split(command)
    program = Path(sys.executable).with_name("cohort")
    at = words.index(str(program))
    assert words[at : at + 5] == [str(program), "update", str(catalog), "--workers", "2);"]
    assert words[-2:] == [">>$at.log", "2>&1"]
    assert lock_of(command).parent == private["XDG_STATE_HOME"] / "cohort"
    assert words[1] == "{"
    given = dict(w.lstrip("(").split("=", 1) for w in words[2 : words.index("flock")])
    assert given.keys() == {"PATH", *private}
    assert {n: given[n] for n in private} == {n: str(p) for n, p in private.items()}


def test_while_another_holds_the_lock_nothing_happens_and_the_code_is_75(tmp_path, private):
    catalog = study(tmp_path)
    (path,) = render("cron", catalog, tmp_path / "out", workers=1).values()
    _, command = line(path)
    lock = lock_of(command)
    assert lock.parent == private["XDG_STATE_HOME"] / "cohort"
    with subprocess.Popen(
        [tool("flock"), lock, "sh", "-c", "echo; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        holder.stdout.readline()
        assert start(command).wait(timeout=60) == 75
        holder.stdin.close()
    assert not (catalog.parent / "store").exists()
    assert re.fullmatch(ENDED.format(code=75), lock.with_suffix(".log").read_text())


@pytest.mark.slow
@pytest.mark.cluster
def test_of_two_calls_that_overlap_one_works(tmp_path, private):
    catalog = study(tmp_path)
    (path,) = render("cron", catalog, tmp_path / "out", workers=1).values()
    _, command = line(path)
    lock = lock_of(command)
    first = start(command)
    until = time.monotonic() + 60
    while not is_locked(lock):
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.01)
    second = start(command)
    assert second.wait(timeout=60) == 75
    assert first.poll() is None, "the second call came too late to overlap"
    log = lock.with_suffix(".log")
    assert first.wait(timeout=200) == 0, log.read_text()
    assert "5 done" in log.read_text()
    # And alone again, it finds nothing to do.
    assert start(command).wait(timeout=200) == 0
    assert "processed 0" in log.read_text()
    # Each night is dated, and says how it ended.
    assert len(re.findall(ENDED.format(code=0), log.read_text())) == 2


def test_a_line_that_cron_would_cut_off_is_refused(tmp_path):
    catalog = study(tmp_path, name="/".join(["d" * 200] * 5))
    with pytest.raises(DeployError, match=rf"characters long, and cron reads {CRON_LINE}.*systemd"):
        render("cron", catalog, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_keys_of_a_bucket(tmp_path, private):
    catalog = study(tmp_path)
    catalog.write_text(catalog.read_text().replace("store: store", "store: s3://bucket/store"))
    (path,) = render("cron", catalog, tmp_path / "out").values()
    _, command = line(path)
    # Without the file nothing begins, and the log says so: a shell that cannot read it ends at once.
    assert start(command).wait(timeout=60) == 2
    log = lock_of(command).with_suffix(".log").read_text()
    assert re.search(rf"s3\.env: .*\n{ENDED.format(code=2)}$", log)
    (private["XDG_CONFIG_HOME"] / "cohort/s3.env").write_text("AWS_SECRET_ACCESS_KEY=of-the-test\n")
    (private["XDG_STATE_HOME"] / "cohort").mkdir(exist_ok=True)
    program = str(Path(sys.executable).with_name("cohort"))
    told = re.sub(rf"{re.escape(program)} update .*$", "env); }", command)
    said = subprocess.run(
        ["/bin/sh", "-c", told], env=BARE, check=True, capture_output=True, text=True
    )
    assert "AWS_SECRET_ACCESS_KEY=of-the-test" in said.stdout
    assert "of-the-test" not in path.read_text()
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") != "of-the-test"
