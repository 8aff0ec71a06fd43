"""What the tests of deployments share: programs that may be missing, a catalog at a hostile path, rendered files."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cohorts
import pytest

from cohort.deployment import files, site
from cohort.deployment.schedule import parse_schedule

HOSTILE = "st udy 50% $HOME $(id) 'q' \"x\" é"
"""Everything that some reader of a file takes for something else."""


RECIPE = """\
recipe: ball
steps:
  head: {call: threshold, image: image, above: 0}
measure:
  head_ml: {call: volume_ml, mask: head}
"""


def tool(name: str) -> str:
    """Path of a program; a test that needs a missing one fails in CI and skips elsewhere."""
    found = shutil.which(
        name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if found is None:
        missing(f"{name} is not installed (tests/debian.txt and the extra `test` name all that is)")
    return found


def missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def study(folder: Path, *, name: str = HOSTILE, scans: int = 5) -> Path:
    """A small cohort with a recipe that needs no compiled kernel; its catalog."""
    catalog = cohorts.write_cohort(folder / name, scans=scans)
    (catalog.parent / "recipes/ball.yaml").write_text(RECIPE, encoding="utf-8")
    return catalog


def survey(
    catalog: Path, *, schedule: str = "03:00", zone: str | None = None, **wishes
) -> site.Site:
    """As `cohort deploy` surveys; whoever runs the tests is nobody special, with the private folders of the test."""
    found = site.survey(catalog, schedule=parse_schedule(schedule, zone=zone), **wishes)
    person = replace(found.person, name="somebody", uid=found.person.uid or 4711)
    return replace(found, person=person)


def render(
    kind: str, catalog: Path, out: Path, *, wishes: files.Wishes | None = None, **given
) -> dict[str, Path]:
    """Write a kind's files; name below `out` -> path."""
    rendered = files.render(kind, survey(catalog, **given), out, wishes)
    files.write(rendered)
    return {path.relative_to(out.absolute()).as_posix(): path for path in rendered.files}


def planted(path: Path, old: str, new: str, folder: Path) -> Path:
    """A copy of a file with one mistake in it."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {path.name}"
    copy = folder / path.name
    copy.write_text(text.replace(old, new, 1), encoding="utf-8")
    return copy
