"""The Dockerfile: sound for a linter, and its steps as far as they run without a container."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from renderings import missing, planted, render, study, tool

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dockerfile(tmp_path):
    return render("kubernetes", study(tmp_path), tmp_path / "out")["image/Dockerfile"]


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("hadolint"), path], check=False, capture_output=True, text=True)


MISTAKES = {
    "nothing": ("FROM", "FROM"),
    "an instruction": ("WORKDIR", "WORKDIRR"),
    "a stage that is not there": ("COPY --from=build /opt/cohort", "COPY --from=biuld"),
    "a relative folder": ("WORKDIR /tmp", "WORKDIR tmp"),
    "a quote left open": ('"${wheel}[cloud]"', '"${wheel}[cloud,cluster]'),
    "a command as text": ('CMD ["cohort", "--help"]', "CMD cohort --help"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_linter_finds_a_planted_mistake_and_nothing_else(dockerfile, tmp_path, mistake):
    done = lint(planted(dockerfile, *MISTAKES[mistake], tmp_path))
    assert (done.returncode == 0) == (mistake == "nothing"), done.stdout


def test_the_image_is_nobodys_and_has_the_pins_of_the_project(dockerfile):
    text = dockerfile.read_text()
    last = text.split("\nFROM ")[-1]
    assert last.startswith("plain AS runtime")
    (plain,) = [stage for stage in text.split("\nFROM ") if " AS plain" in stage]
    assert re.search(r"^USER 10001:10001$", plain, flags=re.MULTILINE)
    pins = (dockerfile.parent / "constraints.txt").read_text()
    assert pins == (ROOT / "constraints.txt").read_text()
    copied = re.search(r"^COPY (.*) /wheels/$", text, flags=re.MULTILINE)[1].split()
    assert copied == ["constraints.txt", "cohort-*.whl"]


def test_its_extras_exist(dockerfile):
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    asked = {
        e
        for found in re.findall(r"\$\{wheel\}\[([\w,]+)\]", dockerfile.read_text())
        for e in found.split(",")
    }
    assert asked == {"cloud", "notebook"}
    assert asked <= set(extras)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by the command that `cohort deploy` prints."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        folder,
        ROOT,
    ]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("cohort-*.whl")
    return found


@pytest.mark.slow
def test_an_installed_wheel_has_the_templates(wheel, tmp_path):
    """Far from the checkout, from the wheel's files alone, the same is rendered."""
    installed = tmp_path / "installed"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        installed,
        wheel,
    ]
    subprocess.run(command, check=True, capture_output=True)
    catalog = study(tmp_path)
    code = (
        "import cohort.cli, sys; sys.argv[0] = 'cohort'; print(cohort.__file__); cohort.cli.main()"
    )
    for kind in ("kubernetes", "slurm", "cron"):
        expected = tmp_path / "checkout" / kind
        found = tmp_path / "wheel" / kind
        for out, path in ((expected, None), (found, installed)):
            environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
            done = subprocess.run(
                [sys.executable, "-c", code, "deploy", kind, catalog, "--out", out],
                cwd=tmp_path, env=environment, check=False, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(str(path or ROOT))
        names = sorted(p.relative_to(expected) for p in expected.rglob("*") if p.is_file())
        assert names == sorted(p.relative_to(found) for p in found.rglob("*") if p.is_file())
        for name in names:
            # A folder of SLURM's names itself.
            one, other = ((f / name).read_text().replace(str(f), "OUT") for f in (expected, found))
            assert one == other


def stage(text: str, name: str) -> str:
    (found,) = [
        s for s in text.replace("\\\n", " ").split("\nFROM ") if re.match(rf"\S+ AS {name}\n", s)
    ]
    return found


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_the_steps_of_the_image_give_a_program_that_works_for_nobody_on_a_read_only_root(
    dockerfile, wheel, tmp_path_factory
):
    """Its RUN lines in a folder of their own; then its ENV, its user and a root that cannot be written."""
    if os.getuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        missing("mount namespaces are not to be had here")
    text = dockerfile.read_text()
    # Like the image's own folders, open to everybody.
    base = Path("/opt") / f"cohort-image-{os.getpid()}"
    (base / "wheels").mkdir(parents=True)
    try:
        shutil.copy(wheel, base / "wheels")
        shutil.copy(dockerfile.parent / "constraints.txt", base / "wheels")

        def here(line: str) -> str:
            return line.replace("/opt/cohort", f"{base}/venv").replace("/wheels", f"{base}/wheels")

        runs = re.findall(r"^RUN (.*)$", stage(text, "build"), flags=re.MULTILINE)
        assert len(runs) == 2
        for line in runs:
            line = here(line).replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv")
            done = subprocess.run(["sh", "-euc", line], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-2000:]

        plain = stage(text, "plain")
        environment = dict(
            re.findall(r"(\w+)=(\S+)", re.search(r"^ENV (.*)$", plain, flags=re.MULTILINE)[1])
        )
        environment = {k: here(v) for k, v in environment.items()}
        assert environment["HOME"] == "/tmp"
        uid = re.search(r"^USER (\d+):(\d+)$", plain, flags=re.MULTILINE)
        catalog = study(base, name="study")
        (catalog.parent / "store").mkdir()
        os.chown(catalog.parent / "store", int(uid[1]), int(uid[2]))
        prefix = Path(sys.base_prefix).resolve()
        # An interpreter in somebody's home: what is closed in front of it is opened for nobody, in this namespace alone.
        closed = [p for p in reversed(prefix.parents) if not p.stat().st_mode & 0o001]
        script = """
            mkdir "$BASE/python"
            mount --bind "$PREFIX" "$BASE/python"
            if [ -n "$CLOSED" ]; then
                mount -t tmpfs -o mode=755 none "$CLOSED"
                mkdir -p "$PREFIX"
                mount --bind "$BASE/python" "$PREFIX"
            fi
            mount -t tmpfs -o mode=1777 none /tmp
            mount --bind "$STORE" "$STORE"
            mount -o remount,bind,ro /
            cd /tmp
            exec setpriv --reuid "$1" --regid "$2" --clear-groups --no-new-privs --inh-caps=-all sh -euc '
                if touch /opt/written 2>/dev/null; then exit 3; fi
                python -m cohort --help >/dev/null
                exec cohort update "$0" --workers 1' "$3"
        """
        places = {
            "BASE": str(base),
            "PREFIX": str(prefix),
            "CLOSED": str(closed[0]) if closed else "",
            "STORE": str(catalog.parent / "store"),
        }
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-euc", script, "sh", uid[1], uid[2], catalog],
            env=environment | places,
            check=False, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "5 done" in done.stdout
    finally:
        shutil.rmtree(base)
