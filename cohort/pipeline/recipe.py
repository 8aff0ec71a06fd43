"""A recipe: ordered named steps, what is measured and what is kept. Checked whole before a byte is read.

A text given for a parameter of type DataArray names a variable of the scan or an earlier step; for a parameter of type
float it is an expression over numbers that earlier steps measured (``0.45 * level``). Everything else is a value.
"""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cohort import expression, provenance
from cohort.io.storage.papers import OF_ALL
from cohort.io.yamlfile import YamlError, read_yaml
from cohort.pipeline.arguments import grid_of_result, near, sort_arguments
from cohort.pipeline.rehearsal import rehearse
from cohort.pipeline.steps import STEPS, Operation

RESERVED = (
    "affine",
    "grid",
    "z",
    "y",
    "x",
    "time",
    "echo",
    "scan_id",
    "participant",
    "subject",
    "session",
    "state",
    "reason",
    "label",
)
"""Names that scans and tables use themselves."""

SCANS_GRID = "scan"
"""The grid of the scan itself."""

_TAKEN = "the name is taken; every step and measurement has its own, and scans and tables use some themselves"


class RecipeError(ValueError):
    """A recipe that cannot run; the message lists every problem."""


@dataclass(frozen=True)
class Step:
    """One named call."""

    name: str
    call: str
    arrays: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> scan variable or earlier step that gives an array or a pose."""
    numbers: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> expression over numbers of earlier steps."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameter -> value."""

    @property
    def operation(self) -> Operation:
        """The function behind the call, with its revision."""
        return STEPS[self.call]

    def number_names(self) -> set[str]:
        """Numbers that the expressions use."""
        return set().union(
            *(expression.names(expression.parse(text)) for text in self.numbers.values()), set()
        )


@dataclass(frozen=True)
class Value:
    """A measurement computed from other numbers."""

    name: str
    text: str
    unit: str


@dataclass(frozen=True)
class Recipe:
    """Ordered steps, measurements and kept variables.

    ``keys`` holds for every step and measurement a digest of its call, its parameters, the revision of the operation and
    the keys of all it stands on; ``uses`` the scan variables it reaches. Two derivatives with equal keys and equal contents of
    those variables hold the same numbers.
    """

    name: str
    steps: tuple[Step, ...]
    measure: tuple[Step | Value, ...]
    keep: tuple[str, ...]
    keys: Mapping[str, str]
    uses: Mapping[str, frozenset[str]]
    needs: Mapping[str, tuple[str, ...]]
    """Step or measurement -> the steps it stands on directly."""
    grids: Mapping[str, str] = field(default_factory=dict)
    """Step that gives an array -> which grid it lies on: `SCANS_GRID`, or a digest of what made another of it. Equal ones are
    equal grids in every scan; others may be, too."""
    content: Mapping[str, Any] = field(default_factory=dict)
    """As written."""

    @property
    def digest(self) -> str:
        """Of everything the recipe does."""
        return provenance.digest(
            {"keys": self.keys, "keep": self.keep, "measure": [m.name for m in self.measure]}
        )

    @property
    def variables(self) -> frozenset[str]:
        """Scan variables that the recipe reads."""
        return frozenset().union(*self.uses.values())

    @property
    def apart(self) -> tuple[str, ...]:
        """What is kept and lies on another grid than the scan."""
        return tuple(name for name in self.keep if self.grids[name] != SCANS_GRID)

    @property
    def poses(self) -> frozenset[str]:
        """Steps that give a pose."""
        return frozenset(step.name for step in self.steps if step.operation.gives == "pose")

    def grid_of(self, name: str) -> str:
        """Which grid a variable of the scan or an array of a step lies on, see `grids`."""
        return self.grids.get(name, SCANS_GRID)

    def origin(self, name: str) -> str:
        """By which name an array goes while the recipe runs: what is made of ``labels`` still does, and is moved as labels."""
        steps = {step.name: step for step in self.steps}
        while name in steps and "image" in steps[name].arrays:
            name = steps[name].arrays["image"]
        return name

    def revisions(self) -> dict[str, int]:
        """Revision of the operation that each step and measurement calls."""
        calls = (s for s in (*self.steps, *self.measure) if isinstance(s, Step))
        return {step.name: step.operation.revision for step in calls}

    def columns(self) -> dict[str, str]:
        """Column of the measurements table -> measurement it comes from (tables of labels have no column)."""
        return {c: m.name for m in self.measure for c in self.columns_of(m)}

    @staticmethod
    def columns_of(item: Step | Value) -> list[str]:
        """Columns that one measurement gives."""
        if isinstance(item, Value) or item.operation.gives == "number":
            return [item.name]
        if item.operation.gives == "vector":
            return [f"{item.name}_{part}" for part in item.operation.parts]
        return []

    def tables(self) -> list[str]:
        """Measurements that are tables, one row a label."""
        return [
            m.name for m in self.measure if isinstance(m, Step) and m.operation.gives == "table"
        ]


def read_recipe(path: Path, *, variables: Collection[str] = ("image",)) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    path : Path
        YAML with the keys ``recipe``, ``steps``, ``measure``, ``keep``.
    variables : collection of str
        Variables that the scans of the cohort hold: ``image`` and what the catalog attaches.

    Raises
    ------
    RecipeError
        One line a problem, all of them at once.
    """
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise RecipeError(str(error)) from error
    recipe = bind(content, where=path.name, variables=variables)
    if recipe.name != path.stem:
        raise RecipeError(
            f"{path.name}: 'recipe' is {recipe.name!r}, expected the name of the file, {path.stem!r}"
        )
    return recipe


def bind(
    content: Mapping[str, Any], *, where: str, variables: Collection[str] = ("image",)
) -> Recipe:
    """Check the content of a recipe file against the operations, and try it out without a voxel. See `read_recipe`."""
    return _Binder(where, variables).bind(content)


class _Binder:
    """Walks a recipe once, collecting problems, keys and dependencies."""

    def __init__(self, where: str, variables: Collection[str]) -> None:
        self.where, self.variables = where, list(variables)
        self.problems: list[str] = []
        self.arrays: dict[str, None] = dict.fromkeys(self.variables)
        self.scalars: dict[str, str] = {}  # usable number -> step or measurement that gives it
        self.keys: dict[str, str] = {}
        self.uses: dict[str, frozenset[str]] = {}
        self.needs: dict[str, tuple[str, ...]] = {}
        self.poses: dict[str, None] = {}
        self.grids: dict[str, str] = dict.fromkeys(self.variables, SCANS_GRID)

    def bind(self, content: Any) -> Recipe:
        if not isinstance(content, Mapping):
            raise RecipeError(
                f"{self.where}: expected the keys recipe, steps, measure, keep; found {content!r:.60}"
            )
        for key in content.keys() - {"recipe", "steps", "measure", "keep", "description"}:
            self._problem(
                f"unknown key {key!r}{near(key, ('recipe', 'steps', 'measure', 'keep', 'description'))}"
            )
        name = content.get("recipe")
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
            self._problem(f"'recipe' is the name, letters, digits, - and _; found {name!r}")
        elif name in OF_ALL:
            self._problem(
                f"recipe: {name!r} is the name of a table of every cohort; choose another"
            )
        found = [self._step(n, s) for n, s in self._section(content, "steps").items()]
        steps = tuple(s for s in found if s is not None)
        measured = self._section(content, "measure")
        if not measured:
            self._problem("'measure' names nothing; a recipe measures at least one number")
        taken = [self._measure(n, m) for n, m in measured.items()]
        measure_ = tuple(m for m in taken if m is not None)
        keep = content.get("keep") or []
        kept = {s.name for s in steps if s.operation.gives == "array"}
        if not isinstance(keep, list):
            self._problem(f"keep: expected a list of steps, such as [{keep}], found {keep!r}")
            keep = []
        for entry in keep:
            if not isinstance(entry, str) or entry not in kept:
                self._problem(
                    f"keep: {entry!r} is no step that gives an array{near(str(entry), kept)}"
                )
        if self.problems:
            raise RecipeError("\n".join(self.problems))
        recipe = Recipe(
            str(name),
            steps,
            measure_,
            tuple(keep),
            self.keys,
            self.uses,
            self.needs,
            {n: grid for n, grid in self.grids.items() if n in self.keys},
            content,
        )
        columns = [c for m in measure_ for c in recipe.columns_of(m)]
        if twice := sorted({c for c in columns if columns.count(c) > 1}):
            raise RecipeError(
                f"{self.where}: two measurements give the column {twice[0]!r}; rename one"
            )
        tables = [m for m in measure_ if isinstance(m, Step)]
        if refused := rehearse(steps, tables, recipe.variables):
            raise RecipeError("\n".join(f"{self.where}: {text}" for text in refused))
        return recipe

    def _problem(self, text: str) -> None:
        self.problems.append(f"{self.where}: {text}")

    def _section(self, content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        section = content.get(key) or {}
        if not isinstance(section, Mapping):
            self._problem(f"{key!r} maps names to calls; found {section!r:.60}")
            return {}
        for name in section:
            if not str(name).isidentifier():
                self._problem(f"{key}: {name!r} is no name; use letters, digits and _")
        return {str(k): v for k, v in section.items() if str(k).isidentifier()}

    def _measure(self, name: str, spec: Any) -> "Step | Value | None":
        if isinstance(spec, str):
            spec = {"value": spec}
        if isinstance(spec, Mapping) and "value" in spec:
            for key in spec.keys() - {"value", "unit"}:
                self._problem(
                    f"measure {name!r}: unknown key {key!r}; a value has 'value' and 'unit'"
                )
            text = str(spec["value"])
            if name in self.keys or name in RESERVED:
                self._problem(f"measure {name!r}: {_TAKEN}")
                return None
            try:
                tree = expression.parse(text)
                expression.check_names(tree, self.scalars, text)
            except expression.ExpressionError as error:
                self._problem(f"measure {name!r}: {error}")
                return None
            self._register(
                name,
                sources=sorted({self.scalars[n] for n in expression.names(tree)}),
                call="value",
                params={"text": text, "unit": str(spec.get("unit", "1"))},
            )
            self.scalars[name] = name
            return Value(name, text, str(spec.get("unit", "1")))
        return self._step(name, spec, place="measure", last=True)

    def _step(
        self, name: str, spec: Any, *, place: str = "step", last: bool = False
    ) -> "Step | None":
        at = f"{place} {name!r}"
        if name in self.keys or name in self.variables or name in RESERVED:
            self._problem(f"{at}: {_TAKEN}")
            return None
        if not isinstance(spec, Mapping) or not isinstance(spec.get("call"), str):
            self._problem(f"{at}: expected {{call: <operation>, ...}}, found {spec!r:.60}")
            self._forget(name)
            return None
        call = spec["call"]
        if call not in STEPS:
            self._problem(
                f"{at}: no operation {call!r}{near(call, STEPS)}; known are {', '.join(sorted(STEPS))}"
            )
            self._forget(name)
            return None
        operation = STEPS[call]
        given = {str(k): v for k, v in spec.items() if k != "call"}
        before = len(self.problems)
        signature = inspect.signature(operation.function)
        takes = ", ".join(signature.parameters)
        for key in given.keys() - signature.parameters.keys():
            self._problem(f"{at}: {call}() has no parameter {key!r}; it takes {takes}")
        try:
            signature.bind(**{k: v for k, v in given.items() if k in signature.parameters})
        except TypeError as error:
            self._problem(f"{at}: {call}(): {error}; it takes {takes}")
        found = sort_arguments(
            operation,
            {k: v for k, v in given.items() if k in signature.parameters},
            arrays=self.arrays,
            poses=self.poses,
            numbers=self.scalars,
        )
        self.problems += [f"{self.where}: {at}, {text}" for text in found.problems]
        step = Step(name, call, found.arrays, found.numbers, found.params)
        if last and operation.gives in ("array", "pose"):
            kind = "an image" if operation.gives == "array" else "a pose"
            self._problem(
                f"{at}: {call}() gives {kind}, not a number; make it a step and measure it"
            )
        if not last and operation.gives == "table":
            self._problem(f"{at}: {call}() gives a table; put it under 'measure'")
        if len(self.problems) > before:
            self._forget(name)
            return None
        sources = list(step.arrays.values()) + sorted(
            {self.scalars[n] for n in step.number_names()}
        )
        self._register(
            name,
            sources=sources,
            call=call,
            params={
                "arrays": list(step.arrays),
                "numbers": step.numbers,
                "params": step.params,
                "revision": operation.revision,
            },
        )
        if operation.gives == "array":
            self.arrays[name] = None
            self.grids[name] = grid_of_result(operation, found, self.grids)
        elif operation.gives == "pose":
            self.poses[name] = None
        elif operation.gives == "number":
            self.scalars[name] = name
        if operation.gives in ("vector", "pose"):
            self.scalars |= {f"{name}_{part}": name for part in operation.parts}
        return step

    def _register(
        self, name: str, *, sources: list[str], call: str, params: Mapping[str, Any]
    ) -> None:
        steps = tuple(dict.fromkeys(s for s in sources if s not in self.variables))
        own = {s for s in sources if s in self.variables}
        self.needs[name] = steps
        self.uses[name] = frozenset(own).union(*(self.uses[s] for s in steps))
        # The names of steps do not matter, only what they do: inputs enter by their keys, in the order of the parameters.
        inputs = {f"{i}": self.keys.get(s, f"scan:{s}") for i, s in enumerate(sources)}
        self.keys[name] = provenance.Stamp(inputs, call, params).digest

    def _forget(self, name: str) -> None:
        """Register a broken step under its name, so that later steps are checked for their own mistakes only."""
        self.arrays[name] = self.poses[name] = None
        self.grids.setdefault(name, SCANS_GRID)
        self.scalars[name] = name
        self.keys.setdefault(name, "")
        self.uses.setdefault(name, frozenset())
        self.needs.setdefault(name, ())
