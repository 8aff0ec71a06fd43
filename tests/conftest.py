"""What every test shares: the real data, hypothesis profiles, and Dask's plain scheduler."""

import os
from pathlib import Path

import dask
import pytest
from hypothesis import HealthCheck, settings

# Modules of fixtures, which test modules name as plugins: pytest may import them for their doctests before that.
pytest.register_assert_rewrite("ceph", "orthanc", "s3")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

settings.register_profile(
    "default",
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "ci", parent=settings.get_profile("default"), max_examples=60, derandomize=True, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def synchronous_dask():
    """Plain and deterministic unless a test brings a cluster."""
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(autouse=True)
def private_home(tmp_path_factory, monkeypatch):
    """Keys, caches and logs of a test go to a folder of its own, never to the user's."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scans and tables; a test that needs it fails in CI and skips elsewhere when it is missing."""
    if not (SHARED / "README.md").exists():
        message = "real scans are not beside this checkout (../shared/data)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return SHARED
