"""Where ids are tokens in the store, nothing that is exported says more than the store does."""

import gzip

import cohorts
from typer.testing import CliRunner

from cohort import api, cli

ORIGINALS = (b"90210", b"31337", b"scans/", b"people.csv")


def test_no_export_names_an_original_id_or_file(tmp_path):
    (tmp_path / "Waltraud").mkdir()
    catalog = cohorts.write_cohort(tmp_path / "Waltraud", 0)
    rows = ["ID,age,weight"]
    for n, person in enumerate(("90210", "31337")):
        cohorts.write_scan(catalog.parent / f"scans/{person}_v1.nii.gz", cohorts.ball(n))
        rows.append(f"{person}_v1,{40 + n},70")
    (catalog.parent / "people.csv").write_text("\n".join(rows) + "\n")
    catalog.write_text(catalog.read_text().replace("ids: keep", "ids: token"))
    api.update(catalog, options=api.Options(workers=0))
    study = api.open(catalog)
    scan_id = study.scans["scan_id"].iloc[0]
    out = tmp_path / "out"
    for command in (
        ["nifti", catalog, scan_id, "-o", out / "scan.nii.gz"],
        ["nifti", catalog, scan_id, "--recipe", "ball", "-o", out / "big.nii"],
        ["ome-zarr", catalog, scan_id, "-o", out / "scan.ome.zarr"],
        ["tables", catalog, "-o", out / "tables"],
        ["bids", catalog, "ball", "-o", out / "bids"],
        ["intake", catalog, "-o", out / "asked.yaml"],
    ):
        done = CliRunner().invoke(cli.app, ["export", *map(str, command)])
        assert done.exit_code == 0, done.stderr
    found = [p for p in out.rglob("*") if p.is_file()]
    assert len(found) > 20
    for path in found:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content += gzip.decompress(content)
        # The folder of a cohort is its owner's business; intake's file names it relative to itself.
        for original in ORIGINALS:
            if original == b"scans/" and path.name == "asked.yaml":
                continue  # of the store
            assert original not in content, f"{path.relative_to(out)} holds {original!r}"
        assert str(tmp_path).encode() not in content
        assert not any(o.decode() in path.name for o in ORIGINALS)
