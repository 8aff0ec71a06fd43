"""The report: complete, inert, readable whatever the cohort looks like."""

import base64
import hashlib
import html
import html.parser
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr
from PIL import Image

from cohort import provenance, schema
from cohort.io.store import Store
from cohort.reporting import contact, effects, scanpage
from cohort.reporting.contact import MAX_CELLS
from cohort.reporting.html import write_report
from cohort.reporting.page import Section, assemble, own_scripts
from cohort.stats import regression

RECIPE = {
    "recipe": "ventricles",
    "steps": {
        "head": {"call": "threshold", "image": "image", "above": 20},
        "dark": {"call": "threshold", "image": "image", "below": "0.45 * level"},
    },
    "measure": {
        "csf_ml": {"call": "volume_ml", "mask": "dark"},
        "share": {"value": "csf_ml / 1500", "unit": "1"},
    },
    "keep": ["dark"],
}


def head(seed: int, *, shape=(24, 36, 30), shift=(0.0, 0.0, 0.0)) -> tuple[xr.Dataset, xr.Dataset]:
    """A scan Dataset of a head with dark ventricles, 5 x 2 x 3 mm, and the mask of the ventricles."""
    rng = np.random.default_rng(seed)
    spacing = np.array((5.0, 4.0, 5.0))
    z, y, x = (
        (np.arange(n) - (n - 1) / 2) * mm - off
        for n, mm, off in zip(shape, spacing, shift, strict=True)
    )
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    inside = (z / 55) ** 2 + (y / 66) ** 2 + (x / 58) ** 2 < 1
    size = 14 + 4 * rng.random()
    ventricles = ((z - 5) / 18) ** 2 + (y / 26) ** 2 + ((np.abs(x) - 12) / (size - 7)) ** 2 < 1
    voxels = (
        np.where(inside, 100, 4)
        + 10 * (y > 40) * inside
        - 75 * ventricles
        + rng.normal(0, 3, shape)
    )
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * mm for n, mm in zip(shape[::-1], spacing[::-1], strict=True)]
    scan = schema.make_scan(voxels.round().astype(np.int16), affine, image_attrs={"units": "1"})
    kept = scan.drop_vars("image").assign(dark=(("z", "y", "x"), ventricles))
    return scan, kept


def scan_row(scan_id: str, scan: xr.Dataset, subject: str) -> dict:
    image = scan["image"]
    return {
        "scan_id": scan_id,
        "participant": subject,
        "subject": subject,
        "session": "1",
        "state": "done",
        "series": "T1",
        "kind": "nifti",
        "modality": "MR",
        **{f"shape_{d}": image.sizes[d] for d in image.dims},
        **{f"spacing_{d}_mm": image[d].attrs["spacing_mm"] for d in image.dims},
    }


def write_scans(store: Store, subjects: list[str], *, with_masks: bool = True) -> pd.DataFrame:
    rows = []
    for seed, subject in enumerate(subjects):
        scan, kept = head(seed)
        scan_id = f"sub-{subject}_ses-1_T1"
        store.write_scan(scan_id, scan, {"subject": subject, "session": "1"})
        if with_masks:
            store.write_derivative("ventricles", scan_id, kept, {})
        rows.append(scan_row(scan_id, scan, subject))
    table = pd.DataFrame(rows)
    store.write_table("scans", table)
    return table


def write_measured(store: Store, scans: pd.DataFrame, **columns) -> pd.DataFrame:
    table = scans[["scan_id", "participant", "subject", "session"]].assign(
        state="done", reason=None
    )
    table = table.assign(**columns)
    store.write_table("ventricles", table, {"csf_ml": "mL", "share": "1", "z0_mm": "mm"})
    return table


def fit(
    store: Store,
    name: str,
    data: pd.DataFrame,
    *,
    outcome: str,
    terms: list[str],
    recipe: str | None,
    **extra,
) -> sm.OLS:
    """Fit by statsmodels and write it in the form the store keeps models in."""
    design = sm.add_constant(data[terms].astype(float)).rename(columns={"const": "Intercept"})
    result = sm.OLS(data[outcome], design).fit()
    robust, influence = result.get_robustcov_results("HC3"), result.get_influence()
    interval = result.conf_int()
    t = np.r_[np.nan, result.tvalues.to_numpy()[1:]]
    r = t / np.sqrt(t**2 + result.df_resid)
    half = 1.96 / np.sqrt(result.df_resid - 1)
    confounds = terms[1:]
    first = "group" if data[terms[0]].isin((0, 1)).all() else "covariate"
    tidy = pd.DataFrame(
        {
            "outcome": outcome,
            "term": design.columns,
            "role": ["intercept", first, *("confound" for _ in confounds)],
            "unit": "mL",
            "estimate": result.params.to_numpy(),
            "se": result.bse.to_numpy(),
            "df": result.df_resid,
            "statistic": result.tvalues.to_numpy(),
            "p": result.pvalues.to_numpy(),
            "ci_low": interval[0].to_numpy(),
            "ci_high": interval[1].to_numpy(),
            "hc3_se": robust.bse,
            "hc3_statistic": robust.tvalues,
            "hc3_p": robust.pvalues,
            "partial_r": r,
            "partial_r_low": np.tanh(np.arctanh(r) - half),
            "partial_r_high": np.tanh(np.arctanh(r) + half),
            "n": int(result.nobs),
        }
    )
    augment = data[["scan_id", "participant"]].assign(
        observed=data[outcome],
        fitted=result.fittedvalues,
        residual=result.resid,
        leverage=influence.hat_matrix_diag,
        cook=influence.cooks_distance[0],
        rstudent=influence.resid_studentized_external,
        **{t: data[t] for t in terms},
    )
    added = {}
    for term in terms:
        others = design.drop(columns=term)
        added[term] = {
            "x": sm.OLS(design[term], others).fit().resid.tolist(),
            "y": sm.OLS(data[outcome], others).fit().resid.tolist(),
        }
    glance = pd.DataFrame(
        {
            "outcome": [outcome],
            "n": [int(result.nobs)],
            "r2": [result.rsquared],
            "aic": [result.aic],
        }
    )
    model = {
        "model": name,
        "outcome": outcome,
        "formula": " + ".join(terms),
        "confounds": confounds,
        "recipe": recipe,
        "warnings": [],
        "reading": [],
        "rows": {"n_table": len(data), "n_used": int(result.nobs), "dropped": []},
        "truth": None,
        "group": None,
        "vif": dict.fromkeys(terms, 1.25),
        "added_variable": added,
        **extra,
    }
    store.write_model(name, {"tidy": tidy, "glance": glance, "augment": augment}, model)
    return result


def full_cohort(root: Path, n: int = 24) -> Store:
    """Scans, one failure, one outlier, quarantine, unmatched rows, two models."""
    store, rng = Store(root), np.random.default_rng(1)
    subjects = [f"{i:04d}" for i in range(1, n + 1)]
    scans = write_scans(store, subjects)
    ad, age = np.arange(n) % 2 * 1.0, rng.uniform(55, 88, n)
    skull = rng.normal(1450, 110, n)
    csf = 20 + 9 * ad + 0.5 * (age - 70) + 0.01 * (skull - 1450) + rng.normal(0, 1.5, n)
    csf[5] = 140.0
    table = write_measured(store, scans, csf_ml=csf, share=csf / 1500, z0_mm=np.nan)
    table.loc[2, ["state", "reason"]] = [
        "failed",
        "step 'dark': no voxel below 0.45 * level (level = 3.1)",
    ]
    table.loc[2, ["csf_ml", "share"]] = np.nan
    store.write_table("ventricles", table, store.units("ventricles"))
    people = pd.DataFrame(
        {"participant": subjects, "subject": subjects, "ad": ad, "age": age, "skull_ml": skull}
    )
    store.write_table("participants", people)
    data = (
        table.merge(people.drop(columns="subject"), on="participant")
        .drop(index=[2, 5])
        .reset_index(drop=True)
    )
    fit(
        store,
        "csf-ad",
        data,
        outcome="csf_ml",
        terms=["ad", "age", "skull_ml"],
        recipe="ventricles",
        truth={"ad": 9.0, "age": 0.5},
        reading=["With age and skull volume held equal, people with ad have more csf_ml."],
        warnings=["2 rows have a Cook's distance above 4/n"],
        rows={
            "n_table": n,
            "n_used": n - 2,
            "dropped": [
                {"row": subjects[2], "reason": "scan failed"},
                {"row": subjects[5], "reason": "withheld"},
            ],
        },
    )
    store.write_quarantine(
        "9f2c41aa",
        {
            "subject": "0031",
            "session": "1",
            "state": "quarantined",
            "code": "DCM-GAP",
            "reason": "DCM-GAP  gap 10.000 mm, expected 5.000, between file 1 and file 2. Fix: send the series again.",
            "n_files": 23,
        },
    )
    store.write_quarantine(
        "77aa01bc",
        {
            "subject": "0032",
            "state": "skipped",
            "code": "localizer",
            "reason": "three crossing planes, not a volume",
            "n_files": 3,
        },
    )
    store.write_json(
        root / "runs" / "20261120T101500-ab12" / "manifest.json",
        {
            "run_id": "20261120T101500-ab12",
            "command": "update /secret/place/demo.yaml",
            "started": "2026-11-20T10:15:00Z",
            "seconds": 12.345,
            "counts": {"fresh": 0, "done": n - 1, "failed": 1, "quarantined": 1},
            "processed": n,
            "found": {"series": n + 2, "files": 26 * n, "skipped": {"not DICOM or NIfTI": 2}},
            "stages": {"run:ventricles": {"done": n - 1, "failed": 1}},
            "unmatched": {
                "rows_without_scan": ["0099"],
                "scans_without_row": [],
                "attachments_without_scan": [],
            },
            "versions": {"cohort": "0.1.0", "numpy": np.__version__},
        },
    )
    return store


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed out of turn."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closed out of turn at {self.getpos()}"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, spaces collapsed."""
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def pictures(self) -> list[Image.Image]:
        found = []
        for attrs in self.all("img"):
            kind, content = re.fullmatch(
                r"data:image/(png|jpeg);base64,(.*)", attrs["src"]
            ).groups()
            picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
            picture.load()
            assert picture.format.lower() == kind
            found.append(picture)
        return found


def report(store: Store, **options) -> Page:
    path = write_report(store, title=options.pop("title", "Trial"), **options)
    assert path == store.root / "report" / "index.html"
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    return Page(path)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Store:
    return full_cohort(tmp_path_factory.mktemp("cohort") / "secret-place", n=12)


@pytest.fixture(scope="module")
def page(cohort) -> Page:
    return report(
        cohort,
        title="Ventricles of twelve heads",
        acknowledgements="Thanks.\n\nTo all.",
        recipes={"ventricles": RECIPE},
    )


def test_the_page_accounts_for_every_series_scan_and_row(page):
    for text in (
        "The cohort holds 12 scans of 12 subjects.",
        "Found 14 series In 312 files. 2 files left aside: not DICOM or NIfTI.",
        "1 quarantined DCM-GAP gap 10.000 mm, expected 5.000, between file 1 and file 2. Fix: send the series again. 9f2c41aa",
        "1 skipped localizer three crossing planes, not a volume 77aa01bc",
        "Ingested 12 scans",
        "Measured by ventricles 11 scans",
        "1 failed step 'dark': no voxel below 0.45 * level (level = 3.1) sub-0003_ses-1_T1",
        "Participants table 12 rows 1 unmatched no scan was found for the row 0099",
        "Used by model csf-ad 10 rows Of 12 rows of its table. 1 left out scan failed 0003 1 left out withheld 0006",
    ):
        assert text in page.text


def test_coefficients_stand_classical_beside_hc3_with_exact_values_in_the_tooltip(cohort, page):
    tidy = cohort.model_table("csf-ad", "tidy")
    titles = {a.get("title") for a in page.all("span")}
    for row in tidy.to_dict("records"):
        for key in ("estimate", "se", "ci_low", "ci_high", "statistic", "hc3_se", "hc3_statistic"):
            assert repr(row[key]) in titles, f"{row['term']} {key}"
        assert {f"p = {row['p']!r}", f"p = {row['hc3_p']!r}"} <= titles
    assert "Clear: the interval lies above 0." in page.text
    assert "Classical HC3 VIF SE t p SE t p Intercept" in page.text


@pytest.mark.parametrize(
    ("low", "high", "p", "robust", "text"),
    [
        (0.1, 0.3, 0.001, 0.002, "Clear: the interval lies above 0."),
        (-0.3, -0.1, 0.001, 0.002, "Clear: the interval lies below 0."),
        (-0.1, 0.3, 0.2, 0.3, "Not clear: the interval includes 0."),
        (
            -0.1,
            0.3,
            0.06,
            0.04,
            "Not clear: the interval includes 0. The two standard errors disagree here: trust HC3, which allows for unequal spread.",
        ),
        (np.nan, np.nan, np.nan, np.nan, "Could not be estimated."),
    ],
)
def test_the_verdict_reads_the_interval_and_says_when_hc3_disagrees(low, high, p, robust, text):
    assert effects.verdict({"ci_low": low, "ci_high": high, "p": p, "hc3_p": robust}) == text


def test_stated_truth_stands_beside_the_estimate(cohort, page):
    ad = cohort.model_table("csf-ad", "tidy").set_index("term").loc["ad"]
    held = ad["ci_low"] <= 9.0 <= ad["ci_high"]
    assert f"the interval {'holds' if held else 'misses'} the truth" in page.text
    age = cohort.model_table("csf-ad", "tidy").set_index("term").loc["age"]
    both = held and age["ci_low"] <= 0.5 <= age["ci_high"]
    number = "all" if both else "1"
    assert f"the 95% interval holds the stated truth for {number} of 2 terms." in page.text
    away = (ad["estimate"] - 9.0) / ad["se"]
    assert repr(float(away)) in {a.get("title") for a in page.all("span")}


def test_reading_warnings_outliers_provenance_and_thanks_are_on_the_page(page):
    for text in (
        "With age and skull volume held equal, people with ad have more csf_ml.",
        "Read with care 2 rows have a Cook's distance above 4/n",
        "1 scan has a value far from the others.",
        "▲ csf_ml far above the others (robust z",
        "20261120T101500-ab12",
        "image = image, below = 0.45 * level",
        "Thanks. To all.",
        "Radiological convention: the patient's right side (R) is on the left of the picture.",
        "Removing names from headers is not anonymisation",
        "24 x 36 x 30 5 x 4 x 5".replace("x", "\N{MULTIPLICATION SIGN}"),
    ):
        assert text in page.text


def test_every_scan_has_a_picture_at_true_aspect_and_every_figure_a_description(page):
    pictures = page.pictures()
    cells = [p for p in pictures if p.format == "JPEG"]
    assert len(cells) == 12
    for cell in cells:  # 30 columns of 5 mm by 36 rows of 4 mm
        assert cell.width / cell.height == pytest.approx(150 / 144, abs=0.01)
    # Box plot, forest, three added-variable plots, residuals; two distributions are drawings.
    assert len(pictures) - len(cells) == 6
    assert len(page.all("svg")) == 2
    assert all(attrs["aria-label"] for attrs in page.all("svg"))
    assert all(attrs["alt"] and attrs["width"] and attrs["height"] for attrs in page.all("img"))


def test_the_page_loads_nothing_runs_only_its_own_scripts_and_names_no_place(cohort, page):
    policy = [
        a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"
    ]
    digests = [hashlib.sha256(script.encode()).digest() for script in page.scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    allowed = (
        f"default-src 'none'; script-src {hashes}; connect-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    assert policy == [allowed]
    assert tuple(page.scripts) == own_scripts()
    assert page.all("script") == [{}] * len(page.scripts) != []
    assert not page.all("link") + page.all("iframe") + page.all("object") + page.all("form")
    assert all(a["href"].startswith("#") for a in page.all("a"))
    assert "url(" not in page.source
    assert "://" not in page.source
    assert "secret" not in page.source
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]


def test_a_script_that_a_browser_would_cut_short_or_rewrite_is_refused():
    for part in ("</script>", "</SCRIPT", "<!--", "\r"):
        with pytest.raises(ValueError, match="a script of a page cannot hold"):
            assemble("t", [], scripts=[f'"{part}"'])


def test_a_page_shows_the_sections_it_is_given_and_lists_them(tmp_path):
    thanks = {"acknowledgements": ["<b>Thanks</b>"]}
    file = tmp_path / "page.html"
    sections = [
        Section(anchor, "Thanks", "acknowledgements.html.j2", thanks, name=f"<i>{anchor}")
        for anchor in ("a", "b")
    ]
    file.write_text(assemble("T", sections, scripts=[], kicker="Scan page"), encoding="utf-8")
    page = Page(file)
    assert page.text.count("Thanks <i>a") == page.text.count("Thanks <i>b") == 2
    assert page.text.count("<b>Thanks</b>") == 2
    assert [a["id"] for a in page.all("section")] == ["a", "b"]
    assert not page.scripts


def test_every_entry_of_the_contents_leads_somewhere_and_ids_are_unique(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"].removeprefix("#") for a in page.all("a")} <= set(ids)
    assert {a["aria-labelledby"] for a in page.all("section")} <= set(ids)


def test_the_same_store_gives_the_same_bytes(cohort):
    first = write_report(cohort, title="Again").read_bytes()
    assert write_report(cohort, title="Again").read_bytes() == first


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}{% raw %}",
        "a\x00b\ud800c\u202e",
    ],
)
def test_hostile_metadata_is_inert_text(tmp_path, evil):
    store = Store(tmp_path)
    name = re.sub("[\x00\ud800]", "", evil)  # these two no file system takes
    scan, kept = head(0)
    store.write_scan("s1", scan, {})
    on_disk = name.replace("/", "")
    store.write_derivative(on_disk, "s1", kept.rename(dark=name), {})
    hostile = evil.replace("\ud800", "")  # nor does Parquet this one
    scans = pd.DataFrame([scan_row("s1", scan, hostile), scan_row(hostile, scan, hostile)])
    store.write_table("scans", scans)
    table = scans[["scan_id", "participant", "subject", "session"]].assign(
        state="done", reason=hostile
    )
    table.loc[1, "state"] = "failed"
    table[hostile] = [1.0, np.nan]
    store.write_table(on_disk, table, {hostile: hostile})
    store.write_quarantine(
        "q", {"subject": hostile, "state": "quarantined", "code": hostile, "reason": hostile}
    )
    data = pd.DataFrame(
        {
            "scan_id": hostile,
            "participant": hostile,
            "y": [1.0, 2, 4, 3, 5, 7],
            hostile: [0.0, 1, 0, 1, 0, 1],
        }
    )
    fit(
        store,
        on_disk,
        data,
        outcome="y",
        terms=[hostile],
        recipe=on_disk,
        formula=hostile,
        reading=[hostile],
        warnings=[hostile],
        truth={hostile: 1.0},
        confounds=[hostile],
        rows={"n_table": 6, "n_used": 6, "dropped": [{"row": hostile, "reason": hostile}]},
    )
    recipe = {
        "steps": {hostile: {"call": hostile, hostile: hostile}},
        "measure": {hostile: {"value": hostile, "unit": hostile}},
        "keep": [hostile],
    }
    page = report(store, title=evil, acknowledgements=evil, recipes={on_disk: recipe})
    assert tuple(page.scripts) == own_scripts()
    assert len(page.all("script")) == len(page.scripts)
    assert all(a["src"].startswith("data:image/") for a in page.all("img"))
    assert not [k for _, attrs in page.tags for k in attrs if k.startswith("on")]
    assert not re.search("[\x00\ud800\u202e]", page.source)
    visible, title = (re.sub("[\x00\ud800\u202e]", "\ufffd", text) for text in (hostile, evil))
    assert page.text.count(visible) >= 20
    assert page.text.count(title) >= 3


def test_templates_never_switch_escaping_off():
    folder = Path(__file__).resolve().parents[2] / "cohort" / "reporting" / "templates"
    sources = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.html.j2")}
    assert "report.html.j2" in sources
    for name, source in sources.items():
        assert not re.search(r"\|\s*safe|autoescape|Markup", source), name


def test_an_empty_store_says_so(tmp_path):
    page = report(Store(tmp_path / "nowhere"), title="Nothing yet")
    for text in (
        "The cohort is empty",
        "0 series The sources hold no scan.",
        "There is no scan to show.",
        "No run has noted how the cohort stands",
        "Nothing was done that a paper could describe.",
        "No model was fitted.",
        "No run has left a record.",
    ):
        assert text in page.text
    assert not page.all("img")


def test_a_cohort_that_is_a_table_has_models_and_no_scan(tmp_path):
    store, rng = Store(tmp_path), np.random.default_rng(0)
    data = pd.DataFrame(
        {
            "scan_id": None,
            "participant": [f"p{i}" for i in range(30)],
            "age": rng.uniform(50, 90, 30),
        }
    )
    data["volume"] = 900 - 2 * data["age"] + rng.normal(size=30)
    store.write_table("participants", data.drop(columns="scan_id"))
    fit(store, "volume", data, outcome="volume", terms=["age"], recipe=None)
    page = report(store)
    for text in (
        "holds no scan; its table has 30 rows",
        "its models need no scan",
        "Outcome taken from the participants table",
        "Clear: the interval lies below 0.",
    ):
        assert text in page.text
    assert len(page.pictures()) == 3  # forest, added variable, residuals; no group to draw boxes by


def test_a_cohort_of_which_all_scans_failed_shows_them_with_the_reason(tmp_path):
    store = Store(tmp_path)
    scans = write_scans(store, ["a", "b"], with_masks=False)
    table = scans[["scan_id", "participant", "subject", "session"]].assign(
        state="failed", reason="no head found", csf_ml=np.nan
    )
    store.write_table("ventricles", table, {"csf_ml": "mL"})
    page = report(store, recipes={"ventricles": RECIPE})
    assert "measured no scan and failed on 2" in page.text
    assert page.text.count("ventricles failed: no head found") == 2
    assert "2 failed no head found" in page.text
    assert "no scan has a value" in page.text


def test_one_scan_is_a_cohort(tmp_path):
    store = Store(tmp_path)
    write_measured(store, write_scans(store, ["only"]), csf_ml=[31.5])
    page = report(store, recipes={"ventricles": RECIPE})
    assert "The cohort holds 1 scan of 1 subject." in page.text
    assert "csf_ml mL 1 0 31.5" in page.text
    assert len(page.pictures()) == len(page.all("svg")) == 1


def test_a_measurement_that_is_nan_everywhere_is_named_and_not_drawn(tmp_path):
    store = Store(tmp_path)
    write_measured(store, write_scans(store, ["a", "b", "c"]), csf_ml=[1.0, 2, 3], z0_mm=np.nan)
    page = report(store, recipes={"ventricles": RECIPE})
    assert "z0_mm mm 0 3 \N{EN DASH} \N{EN DASH} \N{EN DASH} no scan has a value" in page.text
    assert (len(page.pictures()), len(page.all("svg"))) == (3, 1)


def test_who_is_far_comes_first_where_a_measurement_is_none_in_every_scan(tmp_path):
    store = Store(tmp_path)
    csf = np.linspace(20.0, 21.0, 8)
    csf[6] = 900.0
    write_measured(store, write_scans(store, list("abcdefgh")), csf_ml=csf, z0_mm=np.nan)
    page = report(store, recipes={"ventricles": RECIPE})
    ids = [f"sub-{s}_ses-1_T1" for s in "gabcdefh"]
    assert [a["data-name"] for a in page.all("li") if "data-name" in a] == ids
    table = page.source[page.source.index("Every scan and its values") :]
    assert re.findall(r"sub-._ses-1_T1(?=</bdi>)", table)[:8] == ids
    assert scanpage.chosen(store, [], flagged=True) == ids


def test_a_scan_without_a_value_is_flagged_counted_and_comes_first(tmp_path):
    """Two scans whose measurements are no numbers, one that is far, five that are neither."""
    store = Store(tmp_path)
    scans = write_scans(store, list("abcdefgh"), with_masks=False)
    csf, share = np.linspace(20.0, 21.0, 8), np.linspace(0.1, 0.2, 8)
    csf[[5, 7]], share[[5, 7]] = np.nan, (np.inf, np.nan)
    csf[6], share[1] = 900.0, np.nan
    write_measured(store, scans, csf_ml=csf, share=share)
    ids = [f"sub-{s}_ses-1_T1" for s in "abcdefgh"]
    page = report(store, recipes={"ventricles": RECIPE})
    assert (
        "2 scans have no value for csf_ml, share; 1 scan for share (recipe ventricles)" in page.text
    )
    assert "3 scans without a value" in " ".join(
        re.findall(r"[\w ]+ 3 |scans without a value", page.text)
    ) or ("scans without a value 3" in page.text)
    assert "1 scan has a value far from the others." in page.text
    cells = [a for a in page.all("li") if "data-name" in a]
    first = [ids[i] for i in (6, 1, 5, 7)]
    assert [c["data-name"] for c in cells] == [*first, *(i for i in ids if i not in first)]
    kinds = {c["data-name"]: json.loads(c["data-flags"]) for c in cells}
    assert [kinds[i] for i in first] == [["far from the others"], ["no value"], ["no value"], ["no value"]]  # fmt: skip
    assert all("flagged" in c["class"] for c in cells[:4])
    assert not any("flagged" in c["class"] for c in cells[4:])
    assert page.text.count("▲ no value for csf_ml, share") == 4  # in the sheet and in the table
    assert page.text.count("▲ no value for share") == 2
    table = page.source[page.source.index("Every scan and its values") :]
    assert re.findall(r"sub-._ses-1_T1(?=</bdi>)", table)[:8] == [*first, *(i for i in ids if i not in first)]  # fmt: skip
    pages = scanpage.chosen(store, [], flagged=True)
    assert set(pages) == set(first)


def test_ids_in_any_script_are_shown(tmp_path):
    store = Store(tmp_path)
    subjects = ["Ångström", "病人-七", "מטופל", "🧠"]
    scans = write_scans(store, subjects)
    data = write_measured(store, scans, csf_ml=[1.0, 4, 2, 6]).assign(Größe=[0.0, 1, 0, 1])
    fit(store, "modèle", data, outcome="csf_ml", terms=["Größe"], recipe="ventricles")
    data["地点"] = ["北", "南", "北", "南"]
    store.write_table("participants", data[["participant", "地点"]])
    page = report(store, recipes={"ventricles": RECIPE}, groups={"modèle": "地点"})
    for subject in subjects:
        assert f"sub-{subject}_ses-1_T1" in page.text
    assert "csf_ml by 地点, as measured" in page.text
    assert (len(page.pictures()), len(page.all("svg"))) == (4 + 4, 1)


def test_a_damaged_scan_costs_its_own_picture_only(tmp_path):
    store = Store(tmp_path)
    scans = write_scans(store, ["a", "b", "c"])
    write_measured(store, scans, csf_ml=[1.0, 2, 3])
    next((tmp_path / "scans" / "sub-b_ses-1_T1.zarr" / "image").rglob("c/*/*/*")).unlink()
    page = report(store, recipes={"ventricles": RECIPE})
    assert "cannot be drawn (StoreError) sub-b_ses-1_T1" in page.text
    assert len([p for p in page.pictures() if p.format == "JPEG"]) == 2
    assert str(tmp_path) not in page.source


@pytest.mark.parametrize(
    ("keep", "outlined"),
    [(["dark", "bright"], "dark"), (["bright", "dark"], "bright"), ([], "bright")],
)
def test_the_same_mask_is_outlined_in_every_scan_the_first_that_the_recipe_keeps(
    tmp_path, keep, outlined
):
    store, subjects = Store(tmp_path), [f"{i:02d}" for i in range(6)]
    scans = write_scans(store, subjects, with_masks=False)
    for seed, scan_id in enumerate(scans["scan_id"]):
        _, kept = head(seed)
        labels = kept["dark"].astype(np.uint8).rename("a_label_image")
        store.write_derivative(
            "ventricles", scan_id, kept.assign(bright=~kept["dark"], a_label_image=labels), {}
        )
    write_measured(store, scans, csf_ml=np.arange(6.0))
    page = report(store, recipes={"ventricles": {**RECIPE, "keep": keep}})
    assert f"The amber line outlines {outlined} (ventricles);" in page.text


def chunks_read(store, monkeypatch) -> list[str]:
    """Scans of which voxels are read from now on."""
    read: list[str] = []
    plain = Store.open_scan

    def opened(self, scan_id, **options):
        found = plain(self, scan_id, **options)
        image = found["image"].chunk()
        watched = image.data.map_blocks(
            lambda block: (read.append(scan_id), block)[1], dtype=image.dtype, meta=image.data._meta
        )
        return found.assign(image=image.copy(data=watched))

    monkeypatch.setattr(Store, "open_scan", opened)
    return read


@pytest.mark.parametrize(
    ("shape", "small", "is_read"),
    [
        ((24, 36, 30), 0, False),
        ((7, 160, 257), 0, False),
        ((7, 170, 331), 0, True),
        ((24, 36, 30), contact.SMALL, True),
    ],
)
def test_pictures_come_from_thumbnails_and_look_as_those_of_the_scan(
    tmp_path, monkeypatch, shape, small, is_read
):
    """With masks that lie in the middle, at one end, or nowhere: equal pictures, and no voxel read but for the one at the end.

    Where a thumbnail would blur the picture, or a scan is small, the scan is read.
    """
    monkeypatch.setattr(contact, "SMALL", small)
    store, ids = Store(tmp_path), [f"s{i}" for i in range(4)]
    for seed, scan_id in enumerate(ids):
        scan, kept = head(seed, shape=shape)
        store.write_scan(scan_id, scan, {})
        dark = kept["dark"].copy(data=np.zeros(shape, bool))
        if seed == 0:
            dark[shape[0] // 2, shape[1] // 3 : shape[1] // 2, shape[2] // 4 : shape[2] // 2] = True
        if seed == 1:
            dark[0, 5:20, 3:21] = True
        if seed < 3:
            store.write_derivative("ventricles", scan_id, kept.assign(dark=dark), {})
    recipes = {"ventricles": ["dark"]}
    kept = {scan_id: recipes if i < 3 else {} for i, scan_id in enumerate(ids)}
    with monkeypatch.context() as patch:
        read = chunks_read(store, patch)
        quick = [contact._picture(store, scan_id, kept[scan_id])[0] for scan_id in ids]
        assert set(read) == (set(ids) if is_read else {"s1"})
    for scan_id in ids:
        record = store.record(scan_id)
        del record["thumbnail"]
        store.write_json(tmp_path / "scans" / f"{scan_id}.json", record)
    whole = [contact._picture(store, scan_id, kept[scan_id])[0] for scan_id in ids]
    for one, other in zip(quick, whole, strict=True):
        assert {k: v for k, v in one.items() if k != "uri"} == {
            k: v for k, v in other.items() if k != "uri"
        }
        mine, theirs = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(p["uri"].split(",")[1]))), float)
            for p in (one, other)
        )
        assert np.corrcoef(mine.ravel(), theirs.ravel())[0, 1] > 0.95


def test_ages_that_were_capped_are_counted(tmp_path):
    store = Store(tmp_path)
    store.write_table(
        "participants",
        pd.DataFrame({"participant": ["a", "b", "c"], "age_capped": [True, False, True]}),
    )
    assert "2 ages over 89 are given as 90." in report(store).text


def test_a_scan_with_time_is_drawn(tmp_path):
    store, time = Store(tmp_path), xr.Variable("time", [0.0, 0.1], {"units": "s"})
    voxels = np.random.default_rng(0).integers(0, 99, (2, 4, 6, 8)).astype(np.int16)
    store.write_scan(
        "cine", schema.make_scan(voxels, np.diag([1.0, 1, 8, 1]), leading={"time": time}), {}
    )
    store.write_table("scans", pd.DataFrame({"scan_id": ["cine"], "subject": ["s"]}))
    (picture,) = report(store).pictures()
    assert picture.size == (160, 120)


def test_no_more_scans_are_drawn_than_a_page_can_hold(tmp_path):
    store = Store(tmp_path)
    store.write_table(
        "scans",
        pd.DataFrame({"scan_id": [f"s{i:04d}" for i in range(MAX_CELLS + 5)], "subject": "s"}),
    )
    page = report(store)
    assert "5 further scans are not drawn on this page." in page.text
    assert page.text.count("cannot be drawn") == MAX_CELLS


def test_a_scan_that_moves_a_model_is_drawn_though_there_are_more_than_a_page_holds(tmp_path):
    store = Store(tmp_path)
    ids = [f"s{i:04d}" for i in range(MAX_CELLS + 5)]
    store.write_table("scans", pd.DataFrame({"scan_id": ids, "subject": "s"}))
    last = ids[-1]
    tidy = pd.DataFrame(
        {"outcome": "y", "term": ["x"], "role": "covariate", "estimate": 1.0, "se": 0.1, "statistic": 10.0,
         "p": 0.1, "ci_low": 0.8, "ci_high": 1.2}
    )  # fmt: skip
    augment = pd.DataFrame({"scan_id": ids, "observed": 1.0, "fitted": 1.0, "residual": 0.0})
    augment = augment.assign(leverage=0.1, cook=0.0, rstudent=0.0)
    augment.loc[len(ids) - 1, "cook"] = 9.0
    model = {"outcome": "y", "formula": "x", "influence": [last], "rows": {"n_used": len(ids)}}
    glance = pd.DataFrame({"n": [len(ids)]})
    store.write_model("m", {"tidy": tidy, "glance": glance, "augment": augment}, model)
    source = report(store).source
    anchors = re.findall(rf'<a href="#([^"]+)"><bdi>{last}</bdi>', source)
    assert len(anchors) == 2  # at the picture, and in the table of rows that move the model
    (anchor,) = set(anchors)
    (cell,) = re.findall(rf'<li id="{anchor}".*?</li>', source, flags=re.DOTALL)
    assert last in cell


def test_counts_that_do_not_add_up_are_said(tmp_path):
    store = Store(tmp_path)
    write_scans(store, ["a"])
    store.write_json(
        tmp_path / "runs" / "r1" / "manifest.json",
        {"run_id": "r1", "found": {"series": 3, "files": 9, "skipped": {}}},
    )
    assert "The sources hold 3 series, the store accounts for 1:" in report(store).text


def test_a_run_without_a_look_at_the_sources_keeps_what_the_last_look_found(tmp_path):
    store = Store(tmp_path)
    write_scans(store, ["a"])
    look = {
        "run_id": "r1",
        "found": {"series": 1, "files": 9, "skipped": {}},
        "unmatched": {"rows_without_scan": ["p7"]},
    }
    store.write_table("participants", pd.DataFrame({"participant": ["a", "p7"]}))
    store.write_json(tmp_path / "runs" / "r1" / "manifest.json", look)
    store.write_json(
        tmp_path / "runs" / "r2" / "manifest.json", {"run_id": "r2", "stages": {"fit": {}}}
    )
    page = report(store)
    for text in ("In 9 files.", "no scan was found for the row p7", "Run r2"):
        assert text in page.text


@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_a_model_of_this_package_is_shown_with_its_group_reading_and_verdicts(tmp_path, spread):
    rng, n, store = np.random.default_rng(4), 40, Store(tmp_path)
    people = pd.DataFrame(
        {
            "participant": [f"p{i}" for i in range(n)],
            "dx": ["AD", "CN"] * (n // 2),
            "age": rng.uniform(60, 90, n),
        }
    )
    table = people.assign(subject=people["participant"], scan_id=people["participant"])
    table["brain_ml"] = (
        1000
        - 9 * (table["dx"] == "AD")
        - table["age"]
        + rng.normal(0, 1 + spread * (table["dx"] == "AD"))
    )
    fitted = regression.fit(
        table, outcome="brain_ml", formula="dx + age", confounds=("age",), units={"brain_ml": "mL"}
    )
    added = {t: regression.added_variable(fitted, t) for t in fitted.tidy["term"][1:]}
    points = {t: {"x": f["x_resid"].tolist(), "y": f["y_resid"].tolist()} for t, f in added.items()}
    model = {
        **fitted.to_json(),
        "recipe": None,
        "group": None,
        "truth": {"age": -1.0},
        "added_variable": points,
    }
    tables = {"tidy": fitted.tidy, "glance": fitted.glance, "augment": fitted.augment}
    store.write_model("brain", tables, model)
    store.write_table("participants", people)
    page = report(store)
    for text in (
        *fitted.reading,
        *fitted.warnings,
        "brain_ml by dx, as measured",
        "brain_ml ~ dx + age",
        "largest Cook's distance",
    ):
        assert " ".join(text.split()) in page.text
    assert len(page.pictures()) == 5


def test_methods_say_what_was_done_to_what_with_which_versions_and_what_to_cite(page):
    for text in (
        "12 scans of 12 subjects (MR) were brought to the closest canonical axes by flips and transposes, without resampling",
        "1 series whose geometry or content could not be trusted was set aside",
        f"The recipe ventricles (SHA-256 {provenance.digest(RECIPE)[:12]}) applied threshold in 2 steps, whose order and",
        "and measured csf_ml, share (1), scan by scan and alike for all. It succeeded on 11 scans and failed on 1,",
        "Values more than 4 robust standard deviations",
        f"Software: cohort 0.1.0; numpy {np.__version__} (Harris et al. 2020, doi:10.1038/s41586-020-2649-2).",
    ):
        assert text in page.text


@pytest.mark.slow
def test_four_hundred_scans_make_a_page_under_20_mb_in_under_a_minute(tmp_path):
    store = Store(tmp_path)
    voxels = np.random.default_rng(0).integers(0, 4000, (91, 109, 91)).astype(np.int16)
    scan = schema.make_scan(voxels, np.diag([2.0, 2, 2, 1]))
    kept = scan.drop_vars("image").assign(dark=(("z", "y", "x"), voxels > 2000))
    rows = []
    for i in range(400):
        scan_id = f"sub-{i:04d}_ses-1_T1"
        store.write_scan(scan_id, scan, {})
        store.write_derivative("ventricles", scan_id, kept, {})
        rows.append(scan_row(scan_id, scan, f"{i:04d}"))
    store.write_table("scans", pd.DataFrame(rows))
    write_measured(store, pd.DataFrame(rows), csf_ml=np.arange(400.0))
    started = time.process_time()  # CPU seconds: what else the machine does is not counted
    path = write_report(store, title="Large", recipes={"ventricles": RECIPE})
    assert time.process_time() - started < 60
    assert path.stat().st_size < 20e6
    assert len([p for p in Page(path).pictures() if p.format == "JPEG"]) == 400
