"""`cohort deploy`: what it writes, prints and refuses, whatever the catalog and its paths are called."""

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from renderings import render, study, survey
from typer.main import get_command
from typer.testing import CliRunner

from cohort import api, cli
from cohort.deployment import files, site
from cohort.io import deidentify

KINDS = sorted(files.KINDS)
ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: object):
    return CliRunner().invoke(cli.app, ["deploy", *map(str, arguments)])


def everything(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_it_prints_what_it_wrote_and_what_to_type_and_says_the_same_twice(tmp_path, kind):
    catalog = study(tmp_path)
    arguments = (kind, catalog, "--out", tmp_path / "out", "--user", "nobody")
    first = call(*arguments)
    assert first.exit_code == 0, first.output
    printed, following = first.stdout.split("next:\n")
    assert sorted(printed.splitlines()) == sorted(
        str(p) for p in (tmp_path / "out").rglob("*") if p.is_file()
    )
    assert following.strip()
    assert not re.search(r"\{\{|\{%|%\}|UNIT", "".join(everything(tmp_path / "out").values()))
    before = everything(tmp_path / "out")
    assert call(*arguments).stdout == first.stdout
    told = json.loads(call(*arguments, "--json").stdout)
    assert sorted(told["files"]) == sorted(printed.splitlines())
    assert [line.strip() for line in following.splitlines()] == [
        line.strip() for line in told["next"]
    ]
    assert everything(tmp_path / "out") == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_rendered_holds_no_secret(tmp_path, monkeypatch, kind):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "planted-in-the-environment")
    catalog = study(tmp_path)
    catalog.write_text(
        catalog.read_text()
        .replace("ids: keep", "ids: token")
        .replace("store: store", "store: s3://bucket/x")
    )
    private = Path(os.environ["XDG_CONFIG_HOME"]) / "cohort"
    private.mkdir(parents=True)
    (private / "key").write_text("ab" * 32)
    (private / "key").chmod(0o600)
    (private / "s3.env").write_text("AWS_SECRET_ACCESS_KEY=planted-in-a-file\n")
    render(kind, catalog, tmp_path / "out", memory="1GiB")
    text = "".join(everything(tmp_path / "out").values())
    assert "planted" not in text
    assert "ab" * 32 not in text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "slurm"])
def test_what_to_type_next_can_be_typed_and_makes_folders_and_key(tmp_path, kind):
    catalog = study(tmp_path)
    catalog.write_text(catalog.read_text().replace("ids: keep", "ids: token"))
    found = survey(catalog)
    lines = files.render(kind, found, tmp_path / "o u't", files.Wishes()).next
    script = "\n".join(lines)
    assert (
        subprocess.run(["sh", "-n", "-c", script], check=False, capture_output=True).returncode == 0
    ), script
    own = [line.replace("sudo -u somebody ", "") for line in lines if "mkdir" in line]
    assert own
    for line in own:
        subprocess.run(["sh", "-euc", line], check=True, cwd=tmp_path)
    if kind == "kubernetes":
        assert len(deidentify.load_key()) == 32
        assert deidentify.key_file().stat().st_mode & 0o777 == 0o600
    else:
        assert all(folder.is_dir() for folder in (*found.person.folders, found.store))


WRONG = {
    "an unknown kind": (["kubernets"], r"no deployment of kind 'kubernets'; did you mean 'kubernetes'"),
    "a kind of another size": (["Systemd"], r"there are slurm, kubernetes, systemd, cron, compose"),
    "an image for systemd": (["systemd", "--image", "x"], r"--image x means nothing for systemd; it is for kubernetes, compose"),
    "a zone for cron": (["cron", "--timezone", "Etc/UTC"], r"--timezone Etc/UTC means nothing for cron"),
    "no time": (["cron", "--schedule", "night"], r"schedule 'night': expected a time of day"),
    "no memory": (["cron", "--memory", "much"], r"memory 'much': expected a number with a unit"),
    "no budget": (["cron", "--budget", "6 parsecs"], r"time '6 parsecs': expected a number with a unit"),
    "no user": (["systemd", "--user", "nobody-of-this-name"], r"no user 'nobody-of-this-name' on this machine"),
    "root": (["systemd", "--user", "root"], r"systemd would run as root; expected --user NAME"),
    "no image": (["compose", "--user", "nobody", "--image", "a b"], r"--image 'a b': expected a name such as"),
    "no namespace": (["kubernetes", "--namespace", "My_Lab"], r"--namespace 'My_Lab': expected small letters"),
    "another place": (["compose", "--user", "nobody", "--on", "tcp://127.0.0.1:8786"], r"expected for compose a file with `cluster: local`"),
    "no place": (["cron", "--on", "nowhere"], r"--on 'nowhere': expected local, the address of a scheduler"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_deployed_is_one_line_exit_2_and_nothing_written(tmp_path, case):
    (kind, *options), message = WRONG[case]
    done = call(kind, study(tmp_path), "--out", tmp_path / "out", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        *((kind, "recipes:", "recipies:", "did you mean 'recipes'") for kind in KINDS),
        ("cron", "recipes: [ball]", "recipes: [bawl]", "expected a recipe, found 'bawl'"),
        ("cron", "[scans]", "[scanz]", "found nothing at 'scanz'"),
        ("cron", "old + weight", "old + wieght", "wieght"),
    ],
)
def test_a_catalog_that_does_not_check_is_not_deployed(tmp_path, kind, old, new, message):
    catalog = study(tmp_path)
    catalog.write_text(catalog.read_text().replace(old, new))
    done = call(kind, catalog, "--out", tmp_path / "out", "--user", "nobody")
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_file_that_somebody_changed_is_not_replaced_unless_told(tmp_path):
    catalog = study(tmp_path)
    arguments = ("cron", catalog, "--out", tmp_path / "out")
    assert call(*arguments).exit_code == 0
    path = tmp_path / "out/cohort-balls.cron"
    path.write_text("mine\n")
    done = call(*arguments)
    assert done.exit_code == 2
    assert "cohort-balls.cron is there and differs" in done.stderr
    assert path.read_text() == "mine\n"
    assert call(*arguments, "--force").exit_code == 0
    assert "flock" in path.read_text()


def test_a_path_that_no_line_can_hold_is_refused(tmp_path):
    done = call("systemd", study(tmp_path, name="a\nExecStart=/bin/evil"), "--user", "nobody")
    assert done.exit_code == 2
    assert "cannot be printed" in done.stderr


def test_what_was_stated_is_what_the_timer_calls_and_the_command_takes(tmp_path):
    catalog = study(tmp_path)
    on = tmp_path / "slurm.yaml"
    on.write_text("cluster: slurm\n")
    update = survey(catalog, on=str(on), workers=3, memory="1500MB", budget="6h").update("cohort")
    assert update == [
        "cohort",
        "update",
        str(catalog),
        "--on",
        str(on),
        "--workers",
        "3",
        "--memory",
        "1500000000B",
        "--budget",
        "6h",
    ]
    command = get_command(cli.app).commands["update"]
    command.make_context("update", update[2:]).close()
    assert survey(catalog).update("cohort") == ["cohort", "update", str(catalog)]


def test_a_catalog_is_found_from_anywhere(tmp_path, monkeypatch):
    catalog = study(tmp_path, name="study")
    monkeypatch.chdir(tmp_path)
    given_whole = render("systemd", catalog, tmp_path / "a")
    given_short = render("systemd", Path("study/catalog.yaml"), tmp_path / "b")
    assert [p.read_text() for p in given_whole.values()] == [
        p.read_text() for p in given_short.values()
    ]
    assert call("cron", "study/catalog.yaml").exit_code == 0
    assert (tmp_path / "deployed/balls/cron/cohort-balls.cron").is_file()


@given(
    st.lists(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,70}", fullmatch=True),
        unique=True,
        min_size=2,
        max_size=6,
    )
)
def test_every_cohort_has_a_name_of_its_own_that_all_systems_take(names):
    units = [site.unit_name(name) for name in names]
    assert len(set(units)) == len(names)
    # RFC 1123, and a CronJob adds eleven characters to the 63 that a pod may have.
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", u) and len(u) <= 52 for u in units)


def test_memory_is_what_keeps_the_largest_scan_whole(tmp_path):
    """With what is asked for, the planner needs no blocks; nothing is ingested: what is usual."""
    catalog = study(tmp_path)
    assert survey(catalog).worker_bytes() == site.USUAL_MEMORY
    assert survey(catalog, memory="700MiB").worker_bytes() == 700 << 20
    options = api.Options(workers=0)
    api.ingest(catalog, options=options)
    asked = survey(catalog).worker_bytes()
    assert asked < site.USUAL_MEMORY
    (plan,) = api.plan(catalog, options=replace(options, memory=asked))
    assert {task.grain for task in plan.tasks} == {"scan"}
    assert len(plan.tasks) == 5


def test_the_readme_has_a_row_and_a_command_for_every_kind():
    text = (ROOT / "deploy/README.md").read_text()
    rows = dict(
        re.findall(r"^\|.*\| `(\w+)` \| `cohort deploy (.*)` \|$", text, flags=re.MULTILINE)
    )
    assert sorted(rows) == KINDS
    command = get_command(cli.app).commands["deploy"]
    for kind, arguments in rows.items():
        assert arguments.split()[0] == kind
        command.make_context("deploy", arguments.split()).close()
