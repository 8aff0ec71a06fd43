"""Which code ran: the commit of a checkout, and nothing of an installed package."""

import shutil
import subprocess

import pytest

from cohort.pipeline.versions import checkout


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_has_its_commit_and_says_whether_it_was_changed(tmp_path):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        call = ["git", *who, "-C", str(tmp_path), *arguments]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "a.py").write_text("a = 1\n")
    git("add", "a.py")
    git("commit", "--quiet", "--message", "a")
    assert checkout(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a.py").write_text("a = 2\n")
    checkout.cache_clear()
    assert checkout(tmp_path)["dirty"]


def test_what_is_no_checkout_has_no_commit(tmp_path):
    assert checkout(tmp_path) is None
    (tmp_path / ".git").mkdir()  # and what only looks like one has none either
    checkout.cache_clear()
    assert checkout(tmp_path) is None
