"""The compose file: sound by its specification, shut in, and its commands run together on a network of their own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from renderings import missing, planted, render, study, tool

from cohort.deployment.files import BESIDE_BYTES, Wishes


@pytest.fixture
def compose(tmp_path):
    wishes = Wishes(image="registry.example.org/lab/cohort:1")
    return render(
        "compose", study(tmp_path), tmp_path / "out", workers=3, memory="2GiB", wishes=wishes
    )["compose.yaml"]


def check(path: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def services(path: Path) -> dict[str, dict]:
    """As compose reads them: merged, and a double dollar sign is one."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<!\$)\$(\$\$)*(?!\$)", text), "compose would look for a variable"
    return json.loads(json.dumps(yaml.safe_load(text)["services"]).replace("$$", "$"))


MISTAKES = {
    "nothing": ("services:", "services:"),
    "a key": ("healthcheck:", "healthchek:"),
    "a condition": ("condition: service_started", "condition: service_up"),
    "a type": ("type: bind", "kind: bind"),
    "a list": ("cap_drop: [ALL]", "cap_drop: ALL"),
    "a bind": ("create_host_path", "create_hostpath"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_specification_finds_a_planted_mistake_and_nothing_else(compose, tmp_path, mistake):
    done = check(planted(compose, *MISTAKES[mistake], tmp_path))
    assert (done.returncode == 0) == (mistake == "nothing"), done.stdout


def test_services_name_each_other_and_share_the_network_of_the_scheduler(compose):
    found = services(compose)
    assert set(found) == {"scheduler", "worker", "update", "notebook", "s3"}
    for name, service in found.items():
        assert set(service.get("depends_on", ())) <= set(found)
        assert service.get("network_mode") == (None if name == "scheduler" else "service:scheduler")
    # Nothing is reached from elsewhere but the notebook, and that from this machine alone.
    assert [p for s in found.values() for p in s.get("ports", ())] == ["127.0.0.1:8888:8888"]
    for word in ("--host", "--dashboard-address"):
        command = found["scheduler"]["command"]
        assert command[command.index(word) + 1].startswith("127.0.0.1")


def test_containers_are_shut_in(compose, tmp_path):
    catalog = next(tmp_path.rglob("catalog.yaml"))
    for name, service in services(compose).items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["user"].split(":")[0]) > 0
        assert int(service["stop_grace_period"].rstrip("s")) > 30
        writable = {v["target"] for v in service.get("volumes", ()) if not v.get("read_only")}
        private = {
            f"{os.environ[x]}/cohort"
            for x in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME")
        }
        store = {str(catalog.parent / "store")}
        assert writable == {
            "worker": store,
            "update": store | private,
            "notebook": {"/notebooks"},
        }.get(name, set())


def test_every_path_is_the_same_inside_and_outside(compose, tmp_path):
    catalog = next(tmp_path.rglob("catalog.yaml"))
    found = services(compose)
    assert found["update"]["command"] == [
        "cohort", "update", str(catalog), "--on", "tcp://127.0.0.1:8786", "--memory", "2048MiB"
    ]  # fmt: skip
    for service in found.values():
        for volume in service.get("volumes", ()):
            assert volume["source"] in (volume["target"], "./notebooks")
            # A folder that docker makes belongs to root.
            assert volume["bind"] == {"create_host_path": False}
    assert found["worker"]["deploy"]["replicas"] == 3
    assert found["worker"]["deploy"]["resources"]["limits"]["memory"] == str(
        (2 << 30) + BESIDE_BYTES
    )


def test_images_are_stages_of_the_dockerfile_beside_it(compose):
    dockerfile = (compose.parent / "image/Dockerfile").read_text()
    stages = set(re.findall(r"^FROM .* AS (\S+)$", dockerfile, flags=re.MULTILINE))
    for service in services(compose).values():
        if build := service.get("build"):
            assert build["context"] == "image"
            assert build["target"] in stages
    assert services(compose)["notebook"]["image"] == "registry.example.org/lab/cohort-notebook:1"


@pytest.mark.slow
@pytest.mark.cluster
def test_the_services_work_together_and_listen_on_loopback_alone(tmp_path):
    """Their own commands and environments as processes in one network namespace, as `network_mode: service:` makes it."""
    if os.getuid() or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        missing("network namespaces are not to be had here")
    catalog = study(tmp_path)
    found = services(
        render("compose", catalog, tmp_path / "out", workers=1, memory="1GiB")["compose.yaml"]
    )
    binaries = Path(sys.executable).parent

    def line(name: str) -> str:
        environment = [f"{k}={v}" for k, v in found[name].get("environment", {}).items()]
        words = [str(binaries / found[name]["command"][0]), *found[name]["command"][1:]]
        return shlex.join(["env", *environment, *words])

    probe = shlex.join([sys.executable, *found["scheduler"]["healthcheck"]["test"][2:]])
    script = f"""
        ip link set lo up
        {line("scheduler")} >scheduler.log 2>&1 & scheduler=$!
        for attempt in $(seq 60); do {probe} 2>/dev/null && break; sleep 0.5; done
        {line("worker")} >worker.log 2>&1 & worker=$!
        {line("update")}; code=$?
        echo "LISTENING $(awk '$4 == "0A" {{ print $2 }}' /proc/net/tcp /proc/net/tcp6 | tr '\\n' ' ')"
        kill $worker $scheduler; wait
        exit $code
    """
    done = subprocess.run(
        ["unshare", "--net", "bash", "-c", script], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=250,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + (tmp_path / "worker.log").read_text()
    assert "5 done" in done.stdout
    (listening,) = re.findall(r"^LISTENING (.*)$", done.stdout, flags=re.MULTILINE)
    addresses = {a.split(":")[0] for a in listening.split()}
    assert addresses == {"0100007F"}, f"somebody listens on more than 127.0.0.1: {listening}"
