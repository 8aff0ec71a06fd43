"""The real cohort on three nodes, of which one is lost, with a job cancelled: the store is that of a quiet run."""

import re
from pathlib import Path

import pytest
from slurm import Nodes, nodes, run
from test_submit import cohort, contents

from cohort import api
from cohort.io.store import Store
from cohort.pipeline.clusters import submit

__all__ = ["nodes"]

CATALOG = Path(__file__).resolve().parents[2] / "catalogs/cohorts/oasis1.yaml"
SCANS = 167


@pytest.mark.slow
@pytest.mark.cluster
def test_oasis_on_three_nodes_loses_a_job_and_a_node_and_not_a_scan(nodes: Nodes, shared: Path):
    store = Store(nodes.shared / "oasis")
    where = nodes.cluster(workers=3)
    done = cohort("submit", CATALOG, "--on", where, "--store", store.root)
    assert done.returncode == 0, done.stderr
    known = submit.submission_of(store)
    assert known is not None

    def measured() -> int:
        return len(store.derivative_ids("oasis-csf"))

    def workers() -> dict[str, str]:
        """Jobs that run workers, and their nodes."""
        rows = nodes.jobs(f"--name={known.unit}-worker", "--states=RUNNING", form="%i|%N")
        return dict(row.split("|") for row in rows)

    nodes.wait_for(lambda: measured() >= 10, seconds=600)
    first = workers()
    assert len(first) == 3
    lost = next(iter(first))
    run("scancel", lost)
    nodes.wait_for(lambda: measured() >= 40, seconds=600)
    # The node of another worker; the driver's own is not taken down, so that there is one driver from first to last.
    (driver,) = submit.jobs_of(store)
    down = next(n for j, n in workers().items() if n != driver.host)
    run("scontrol", "update", f"nodename={down}", "state=down", "reason=lost")
    assert run("sinfo", "--noheader", f"--nodes={down}", "--format=%T").startswith("down")
    assert down not in workers().values()
    assert measured() < SCANS
    assert submit.wait(store, known, tell=print) == 0, known.console.read_text()

    manifest = store.manifest()
    assert manifest["counts"] == {"fresh": 0, "done": SCANS, "failed": 0, "quarantined": 0}
    assert known.log.read_text().count("started") == 1
    for log in (known.log, *(nodes.shared / "jobs").glob("*.err")):
        assert not re.search(rf"OAS1_|sub-\d|{re.escape(str(shared))}|\.nii", log.read_text()), log
    nodes.wait_for(lambda: not nodes.jobs())

    quiet = nodes.shared / "quiet"
    api.update(CATALOG, options=api.Options(store=quiet, workers=2))
    ours, theirs = contents(store.root), contents(quiet)
    assert len(ours) > 2 * SCANS
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
