"""The house rules that no other tool checks: examples parse, names agree, and nothing stands twice."""

import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import xarray as xr

import cohort
from cohort.io.catalog import read_catalog
from cohort.io.policy import Policy
from cohort.io.yamlfile import parse_yaml
from cohort.pipeline.recipe import STEPS, bind, read_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def readme_commands(program, *languages):
    lines = "".join("".join(blocks(language)) for language in languages).splitlines()
    return [line.split("#")[0][2:].strip() for line in lines if line.startswith(f"$ {program} ")]


def files():
    """Everything that is or could be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return sorted(p for line in listed.stdout.splitlines() if (p := ROOT / line).is_file())


def texts():
    for path in files():
        try:
            yield path, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


@pytest.mark.parametrize(
    "path", sorted((ROOT / "catalogs/cohorts").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_catalog_and_its_recipes_are_sound(path):
    catalog = read_catalog(path)
    assert catalog.cohort == path.stem
    assert catalog.acknowledgement
    for name in catalog.recipes:
        assert (
            read_recipe(catalog.recipe_path(name), variables=("image", *catalog.attach)).name
            == name
        )


@pytest.mark.parametrize(
    "path", sorted((ROOT / "catalogs/recipes").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_recipe_is_named_as_its_file(path):
    assert read_recipe(path, variables=("image", "labels", "second")).name == path.stem


def test_the_examples_of_the_readme_are_sound(tmp_path):
    catalog, recipe, other = blocks("yaml")
    (tmp_path / "cohort.yaml").write_text(catalog)
    read = read_catalog(tmp_path / "cohort.yaml")
    shown, decisions = set(parse_yaml(catalog, name="README")), {f.name for f in fields(Policy)}
    assert (
        set(type(read).model_fields) - {"key", "allow_unmatched"} - decisions == shown - decisions
    )
    assert all(f"`{name}" in README for name in decisions)
    bound = bind(parse_yaml(recipe, name="README"), where="README", variables=("image",))
    assert list(bound.columns()) == ["fluid_ml", "head_ml", "share"]
    assert bind(parse_yaml(other, name="README"), where="README").apart == ("fine",)
    for code in blocks("python"):
        compile(code, "README", "exec")


def test_every_command_of_the_readme_exists_with_its_options():
    from cohort.cli import app

    group = typer.main.get_command(app)
    commands = readme_commands("cohort", "console", "text")
    assert len(commands) >= 30
    for line in commands:
        name, *arguments = shlex.split(line)[1:]
        command = group.commands[name]
        while commands := getattr(
            command, "commands", None
        ):  # a group: the next word names one of its
            name, *arguments = arguments
            command = commands[name]
        command.make_context(name, arguments).close()
    changes = README.split("## Changes")[1]
    for name in group.commands:
        assert re.search(rf"\b{name}\b", changes), f"{name} is missing in the README"


def test_every_make_recipe_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    recipes = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert recipes >= {
        "venv",
        "demo",
        "test",
        "test-slow",
        "lint",
        "types",
        "layers",
        "bench",
        "clean",
    }
    assert {line.split()[1] for line in readme_commands("make", "console")} == {"demo", "test"}
    ci = re.findall(r"^step (.*)$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert " ".join(ci).split() == ["lint", "types", "layers", "test", "test-slow"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT["project"]
    assert version("cohort") == cohort.__version__
    holders = [
        p
        for p, text in texts()
        if re.search(rf"version\w*\s*[=:]\s*[\"']?{re.escape(cohort.__version__)}\b", text)
    ]
    assert holders == [ROOT / "cohort/__init__.py"]
    assert (
        re.search(r"^### (\S+)$", README.split("## Changes")[1], flags=re.MULTILINE)[1]
        == cohort.__version__
    )


def test_no_file_names_a_machine_or_an_index():
    # [x] keeps these patterns from finding themselves.
    hosts = r"[p]ypi\.org|[p]ythonhosted|[-]-index-url|[-]-find-links|/[s]imple/"
    pattern = re.compile(
        rf"{re.escape(str(ROOT))}|(?<![\w.{{}}])/(?:[h]ome|[U]sers|[r]oot)/|{hosts}"
    )
    hits = [f"{p.relative_to(ROOT)}: {m[0]}" for p, text in texts() for m in pattern.finditer(text)]
    assert hits == []


def test_constraints_are_plain_pins_that_cover_every_dependency():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["demo"], *extras["test"], *extras["dev"]]
    names = {
        re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", text)[0]).lower() for text in wanted
    }
    assert names <= pinned


def test_the_readme_lists_every_operation_of_recipes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("what a step may call") : text.index("A step may change the grid")]
    named = re.findall(
        r"\w+", " ".join(line.split("|")[2] for line in table.splitlines()[2:] if line)
    )
    assert sorted(named) == sorted(STEPS)


def test_no_room_is_an_attic():
    assert [
        p for p in files() if p.stem.strip("_") in ("utils", "util", "helpers", "common", "misc")
    ] == []


def test_importing_the_menu_and_the_command_line_loads_nothing_heavy():
    heavy = (
        "numpy",
        "pandas",
        "xarray",
        "dask",
        "distributed",
        "zarr",
        "scipy",
        "matplotlib",
        "statsmodels",
        "SimpleITK",
    )
    code = f"import sys, cohort, cohort.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", STEPS)
def test_an_operation_is_documented_and_takes_keywords(name):
    function, revision, *_ = STEPS[name]
    assert revision >= 1
    doc = inspect.getdoc(function) or ""
    assert "Raises" in doc, f"{name}: what does it refuse?"
    hints = inspect.signature(function, eval_str=True).parameters.values()
    positional = [p for p in hints if p.kind is not p.KEYWORD_ONLY]
    images = (xr.DataArray, xr.DataArray | None)
    assert all(p.annotation in images or p.name == "matrix" for p in positional), (
        f"{name}: only images, and where they go, are positional"
    )


@pytest.mark.slow
@pytest.mark.cluster
def test_the_walk_of_the_readme_runs_as_written(tmp_path):
    program = Path(sys.executable).with_name("cohort")

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    report = run(program, "demo", "demo-output", "--scans", "8").split()[-1]
    assert (tmp_path / report).is_file()
    for line in readme_commands("cohort", "console"):
        assert run(program, *shlex.split(line)[1:]).strip(), f"{line} printed nothing"
    for code in blocks("python"):
        assert "csf_ml" in run(sys.executable, "-c", code)
