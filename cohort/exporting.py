"""Commands that take what a store holds elsewhere: to NIfTI, OME-Zarr, TSV, BIDS or intake."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cohort.arguments import Place, StorePath
from cohort.console import errors, listener, open_cohort, say

if TYPE_CHECKING:
    import xarray as xr

    from cohort.cohort import Cohort

Scan = Annotated[
    str, typer.Argument(metavar="SCAN", help="A scan, or a part of its name that no other has")
]
ScanOrModel = Annotated[
    str | None,
    typer.Argument(
        metavar="SCAN",
        help="A scan, or a part of its name that no other has; none with --model",
    ),
]
Recipe = Annotated[
    str | None, typer.Option("--recipe", help="Something that a recipe kept, not the scan itself")
]
Variable = Annotated[
    str | None,
    typer.Option(
        "--variable", help="Which variable (default: image; of a recipe, the one it kept)"
    ),
]
Out = Annotated[Path, typer.Option("--output", "-o", help="What to write; never half of it")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier export left there")]

app = typer.Typer(
    name="export",
    help="Take scans and results elsewhere: NIfTI, OME-Zarr, TSV, BIDS, intake. Nothing is exported that the store does not hold.",
    epilog="Example: cohort export nifti catalogs/cohorts/oasis1.yaml sub-0001 -o 0001.nii.gz",
    no_args_is_help=True,
)


def add_to(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app)


@app.command(
    epilog="Example: cohort export nifti CATALOG sub-0001 -o 0001.nii.gz\n\n"
    "What a recipe kept: cohort export nifti CATALOG sub-0001 --recipe oasis-csf --variable largest -o csf.nii.gz\n\n"
    "Maps of a model, into a folder: cohort export nifti CATALOG --model intensity-by-ad --map t --map fwe_p -o maps"
)
def nifti(
    catalog: Place,
    scan: ScanOrModel = None,
    *,
    output: Out,
    recipe: Recipe = None,
    variable: Variable = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Maps of this model, and its peaks, into a folder"),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="With --model: which, such as t; may be repeated; all without"),
    ] = None,
    contrasts: Annotated[
        list[str] | None,
        typer.Option("--contrast", help="With --model: of which contrast; may be repeated"),
    ] = None,
    version: Annotated[
        Literal["auto", "1", "2"],
        typer.Option(
            "--nifti", help="Version; 1 may round the affine to float32, and says by how much"
        ),
    ] = "auto",
    force: Force = False,
    store: StorePath = None,
) -> None:
    """Write a scan, what a recipe kept of it, or maps of a model as NIfTI: numbers, scale and affine as they are stored."""
    with errors():
        from cohort.io.exports.nifti import check_name, write_nifti
        from cohort.io.exports.place import ExportError, check_free, staged
        from cohort.io.exports.tables import write_json

        if model is not None:
            if scan is not None or recipe is not None or variable is not None:
                raise ExportError("--model writes maps of all scans: expected no SCAN beside it")
            from cohort.io.exports.statmaps import MARKER, write_maps

            opened = open_cohort(catalog, store)
            with staged(output, force=force, marker=MARKER) as folder:
                files = write_maps(
                    *(opened.store, model, folder),
                    names=maps or (),
                    contrasts=contrasts or (),
                    version="1" if version == "auto" else version,
                )
            for file in files:
                typer.echo(str(output / file))
            return
        if scan is None or maps or contrasts:
            raise ExportError(
                "expected a SCAN, or --model with the name of a model of maps, to which --map and --contrast belong"
            )
        check_name(output)
        image = _chosen(open_cohort(catalog, store), scan, recipe, variable)
        beside = output.with_name(output.name.removesuffix(".gz").removesuffix(".nii") + ".json")
        with _progress("nifti", image.nbytes) as tell, staged(output, force=force) as path:
            written = write_nifti(image, path, version=version, progress=tell)
            if written.timing is not None:
                check_free(beside, force=force)
        if written.timing is not None:
            with staged(beside, force=force) as path:
                write_json(path, {"VolumeTiming": written.timing})
    if written.off_mm > 0:
        say(f"note: NIfTI-1 rounds the affine; corners move by up to {written.off_mm:.2g} mm")
    elif written.version == "2":
        say("note: NIfTI-2, which alone holds affine, scale and time to the bit; --nifti 1 rounds")
    typer.echo(str(output))
    if written.timing is not None:
        typer.echo(str(beside))


@app.command("ome-zarr", epilog="Example: cohort export ome-zarr CATALOG sub-0001 -o 0001.ome.zarr")
def ome_zarr(
    catalog: Place,
    scan: Scan,
    output: Out,
    recipe: Recipe = None,
    variable: Variable = None,
    *,
    force: Force = False,
    store: StorePath = None,
) -> None:
    """Write a scan, or what a recipe kept of it, as OME-Zarr 0.5: a pyramid that viewers read over HTTP."""
    with errors():
        from cohort.io.exports.ngff import write_ngff
        from cohort.io.exports.place import staged

        opened = open_cohort(catalog, store)
        image, name = _chosen(opened, scan, recipe, variable), opened.scan_id(scan)
        with (
            _progress("ome-zarr", image.nbytes) as tell,
            staged(output, force=force, marker="zarr.json") as folder,
        ):
            levels = write_ngff(image, folder, name=name, progress=tell)
    say(f"{levels} levels of {' x '.join(map(str, image.shape))} voxels")
    typer.echo(str(output))


@app.command(epilog="Example: cohort export tables catalogs/cohorts/oasis1.yaml -o oasis1-tables")
def tables(
    catalog: Place,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="Which; all by default")
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder to be made")],
    force: Force = False,
    store: StorePath = None,
) -> None:
    """Write tables as TSV, with the units and descriptions of their columns in JSON beside them."""
    with errors():
        from cohort.io.exports.place import staged
        from cohort.io.exports.tables import write_json, write_tables

        opened = open_cohort(catalog, store)
        with staged(output, force=force, marker="tables.json") as folder:
            written = write_tables(opened.store, names or [], folder)
            write_json(folder / "tables.json", {"tables": written})
    for name in written:
        typer.echo(str(output / f"{name}.tsv"))


@app.command(
    epilog="Example: cohort export bids catalogs/cohorts/oasis1.yaml oasis-csf -o oasis1-csf"
)
def bids(
    catalog: Place,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Whose results")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder to be made")],
    *,
    force: Force = False,
    store: StorePath = None,
) -> None:
    """Write what a recipe measured and kept as a derivative dataset of BIDS."""
    with errors():
        from cohort.io.exports.bids import MARKER, write_bids
        from cohort.io.exports.place import staged

        opened = open_cohort(catalog, store)
        thanks = None if opened.catalog is None else opened.catalog.acknowledgement
        with (
            listener(as_json=False) as listen,
            staged(output, force=force, marker=MARKER) as folder,
        ):
            layout = write_bids(
                opened.store,
                recipe,
                folder,
                acknowledgement=thanks,
                progress=lambda done, total: listen(
                    {"event": "found", "stage": "bids", "done": done, "total": total}
                ),
            )
    for name, n in layout.left_out.items():
        say(
            f"note: {n} images {name} are neither masks nor labels and were left out: BIDS wants to know of them what no "
            "recipe says; `cohort export nifti` writes them"
        )
    say(f"{layout.subjects} subjects, {layout.images} masks and label images")
    typer.echo(str(output))


@app.command(epilog="Example: cohort export intake catalogs/cohorts/oasis1.yaml -o oasis1.yaml")
def intake(
    catalog: Place,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: COHORT.intake.yaml, here")
    ] = None,
    *,
    force: Force = False,
    store: StorePath = None,
) -> None:
    """Write a catalog for intake 2: every table, and every scan by its name."""
    with errors():
        from cohort.io.exports.intake import write_intake
        from cohort.io.exports.place import staged

        opened = open_cohort(catalog, store)
        target = output or Path(f"{opened.store.info()['cohort']}.intake.yaml")
        with staged(target, force=force) as path:
            write_intake(opened.store, path, folder=target.parent)
    typer.echo(str(target))


def _chosen(
    opened: "Cohort", scan: str, recipe: str | None, variable: str | None
) -> "xr.DataArray":
    """The variable that was asked for, as it is stored."""
    from cohort.io.exports.place import ExportError

    scan_id = opened.scan_id(scan)
    if recipe is None:
        found = opened.store.open_scan(scan_id, decoded=False)
        name, whose = variable or "image", scan_id
    else:
        opened.measurements(recipe)  # says which recipes there are
        kept = (opened.store.derivative(recipe, scan_id) or {}).get("kept", [])
        whose = f"{recipe} of {scan_id}"
        if variable is None and len(kept) != 1:
            raise ExportError(
                f"{whose} kept {', '.join(kept) or 'nothing'}; say which with --variable"
                if kept
                else f"{whose} kept nothing; name variables under `keep:` in the recipe and call `cohort run`"
            )
        name = variable or kept[0]
        found = opened.store.open_derivative(recipe, scan_id, variable=name)
    if name not in found or name == "affine":
        there = ", ".join(sorted({str(n) for n in found.data_vars} - {"affine"}))
        raise ExportError(f"{whose} has no variable {name!r}; there are {there}")
    return found[name]


@contextmanager
def _progress(stage: str, total: int) -> Iterator[Callable[[int], None]]:
    """Tell who looks on how many bytes are done."""
    done = 0
    with listener(as_json=False) as listen:

        def tell(n: int) -> None:
            nonlocal done
            done += n
            listen({"event": "found", "stage": stage, "done": done, "total": total})

        yield tell
