"""Every notebook runs from top to bottom on data that it makes itself, and says what it adds to the tutorial it walks."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.py"))

NAMES = [
    "01_look",
    "02_masks_and_filters",
    "03_measure_a_heart",
    "04_compare_and_register",
    "05_cohort_regression",
    "06_query_with_xarray_and_sql",
    "07_scale_out",
]


def test_all_are_there_and_thin():
    assert [p.stem for p in NOTEBOOKS] == NAMES
    readme = (NOTEBOOKS[0].parents[1] / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") < 130, f"{path.stem} is no longer thin"
        assert text.startswith("# %% [markdown]\n# # ")
        assert "# ## What this adds to the " in text
        assert path.stem in readme


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    import jupytext
    from nbclient import NotebookClient

    for folder in ("RUNTIME", "DATA", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{folder}_DIR", str(tmp_path / folder.lower()))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    notebook = jupytext.read(path)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": tmp_path / "work"}},
    )
    client.execute()
    assert list((tmp_path / "work").iterdir()) == [], "it leaves nothing behind"
    cells = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    shown = [
        o for c in cells for o in c.outputs if o.output_type in ("display_data", "execute_result")
    ]
    assert shown, "it shows something"
    if "figure" in path.read_text(encoding="utf-8"):
        assert any("image/png" in o.data for o in shown), "a figure is seen, not its name"
    assert not [o for c in cells for o in c.outputs if o.get("name") == "stderr"], (
        "without a warning"
    )
