"""The manifests: sound by the schemas, whole, shut in, and what their commands say really runs, encrypted."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from manifests import KustomizeError, build, load, pods, problems
from renderings import planted, render, study, survey

from cohort.deployment.files import BESIDE_BYTES, DRIVER_BYTES, Wishes
from cohort.deployment.refusal import DeployError

UNIT = "cohort-balls"
MIB = 1 << 20


@pytest.fixture
def files(tmp_path):
    return render("kubernetes", study(tmp_path), tmp_path / "out", schedule="Mon-Fri 02:15", zone="Europe/Berlin",
                  workers=3, memory="3GiB", wishes=Wishes(image="registry.example.org/lab/cohort:1", namespace="lab"))  # fmt: skip


def folder(files: dict[str, Path]) -> Path:
    return files["base/kustomization.yaml"].parents[1]


def both(files) -> list[list[dict]]:
    return [build(folder(files) / "base"), build(folder(files) / "overlays/cluster")]


def test_the_schemas_find_nothing_to_say_of_what_kustomize_builds(files):
    for objects in both(files):
        assert {
            f"{o['kind']} {o['metadata']['name']}": problems(o) for o in objects if problems(o)
        } == {}
    kinds = sorted(o["kind"] for o in both(files)[1])
    assert kinds == ["ConfigMap", "CronJob", "DaskCluster", "NetworkPolicy", "PersistentVolumeClaim", "PersistentVolumeClaim", "ServiceAccount"]  # fmt: skip


MISTAKES = {
    "cronjob": ("base/cronjob.yaml", "concurrencyPolicy", "concurencyPolicy"),
    "a number as text": ("base/cronjob.yaml", "backoffLimit: 4", "backoffLimit: four"),
    "a pod": ("base/cronjob.yaml", "runAsNonRoot", "runAsNonroot"),
    "a claim": ("base/claims.yaml", "accessModes", "accesModes"),
    "an account": ("base/serviceaccount.yaml", "automountServiceAccountToken", "automountToken"),
    "a policy": ("overlays/cluster/networkpolicy.yaml", "podSelector", "podselector"),
    "a cluster": ("overlays/cluster/daskcluster.yaml", "replicas", "replica"),
    "a worker": ("overlays/cluster/daskcluster.yaml", "imagePullPolicy", "imagePulPolicy"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_schemas_find_a_planted_mistake(files, tmp_path, mistake):
    name, old, new = MISTAKES[mistake]
    assert [p for doc in load(files[name]) for p in problems(doc)] == []
    copy = planted(files[name], old, new, tmp_path)
    assert [p for doc in load(copy) for p in problems(doc)] != []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("- ../../base", "- ../../bass"),
        ("daskcluster.yaml", "dask-cluster.yaml"),
        ("[cluster.yaml]", "[clusters.yaml]"),
        ("path: cronjob.yaml", "path: cronjobs.yaml"),
        (f"name: {UNIT}}}", "name: cohort-bolls}"),
        ("configMapGenerator", "configmapGenerator"),
    ],
)
def test_a_kustomization_that_names_what_is_not_there_is_found(files, old, new):
    path = files["overlays/cluster/kustomization.yaml"]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(KustomizeError):
        build(path.parent)


def test_all_that_pods_refer_to_is_there_or_a_secret_of_the_site(files):
    for objects in both(files):
        there = {(o["kind"], o["metadata"]["name"]) for o in objects}
        for pod in pods(objects):
            assert ("ServiceAccount", pod.get("serviceAccountName", UNIT)) in there
            for volume in pod["volumes"]:
                if claim := volume.get("persistentVolumeClaim"):
                    assert ("PersistentVolumeClaim", claim["claimName"]) in there
                if made := volume.get("configMap"):
                    assert ("ConfigMap", made["name"]) in there
                assert volume.get("secret", {"secretName": "cohort-tls"})["secretName"] in (
                    "cohort-tls",
                    "cohort-key",
                )
            names = {volume["name"] for volume in pod["volumes"]}
            for container in pod["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} == names
                for source in container.get("envFrom", ()):
                    assert source["secretRef"] == {"name": "cohort-s3", "optional": True}
        assert {o["metadata"]["namespace"] for o in objects} == {"lab"}


def test_pods_are_as_restricted_as_kubernetes_knows_and_cannot_write_but_where_they_must(files):
    """The policy `restricted` of the Pod Security Standards, and a read-only root."""
    for pod in [p for objects in both(files) for p in pods(objects)]:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert {next(iter(set(v) - {"name"})) for v in pod["volumes"]} <= {
            "configMap",
            "secret",
            "emptyDir",
            "persistentVolumeClaim",
        }
        for container in pod["containers"]:
            locked = container["securityContext"]
            assert locked == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["image"] == "registry.example.org/lab/cohort:1"
            writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            assert {w for w in writable if not w.endswith("/store")} <= {"/tmp", "/state"}


def test_memory_is_asked_for_workers_and_driver(files):
    alone, apart = both(files)
    (pod,) = pods(alone)
    asked = f"{3 * (3072 + BESIDE_BYTES // MIB) + DRIVER_BYTES // MIB}Mi"
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "3", "memory": asked},
        "limits": {"memory": asked},
    }
    (cluster,) = [o for o in apart if o["kind"] == "DaskCluster"]
    assert cluster["spec"]["worker"]["replicas"] == 3
    (worker,) = cluster["spec"]["worker"]["spec"]["containers"]
    assert worker["resources"]["requests"]["memory"] == f"{3072 + BESIDE_BYTES // MIB}Mi"
    command = worker["command"]
    assert command[command.index("--memory-limit") + 1] == str(3072 * MIB)


def test_the_driver_is_told_what_it_must_know_and_when_to_stop(files, tmp_path):
    alone, apart = both(files)
    (job,) = [o for o in alone if o["kind"] == "CronJob"]
    spec = job["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == (
        "15 2 * * 1,2,3,4,5",
        "Europe/Berlin",
        "Forbid",
    )
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 23 * 3600
    (pod,) = pods(alone)
    assert pod["terminationGracePeriodSeconds"] > 30
    # Retried are 75 (stopped, held) and crashes; failed scans and wrong calls would end the same way.
    rules = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"] == {
        "containerName": "update",
        "operator": "In",
        "values": [1, 2],
    }
    catalog = next(tmp_path.rglob("catalog.yaml"))

    def words(pod):
        # $$( is how a pod writes $( in a command.
        return [w.replace("$$(", "$(") for w in pod["containers"][0]["command"]]

    assert words(pod) == ["cohort", "update", str(catalog), "--workers", "3", "--memory", "3072MiB"]
    driver = pods([o for o in apart if o["kind"] == "CronJob"])[0]
    assert words(driver) == [
        "cohort",
        "update",
        str(catalog),
        "--on",
        "/etc/cohort/cluster.yaml",
        "--memory",
        "3072MiB",
    ]
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert mounts[str(catalog.parent)]["readOnly"] is True
    assert mounts[str(catalog.parent / "store")] == {
        "name": "data",
        "mountPath": str(catalog.parent / "store"),
        "subPath": "store",
    }
    # One volume must not be mounted twice at one place.
    assert len(mounts) == len(pod["containers"][0]["volumeMounts"])


def test_the_key_comes_as_a_secret_only_where_ids_become_tokens(files, tmp_path):
    assert "secretName" not in files["base/cronjob.yaml"].read_text()
    catalog = next(tmp_path.rglob("catalog.yaml"))
    catalog.write_text(catalog.read_text().replace("ids: keep", "ids: token"))
    objects = build(folder(render("kubernetes", catalog, tmp_path / "token")) / "base")
    (pod,) = pods(objects)
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "key"]
    environment = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
    assert mount["mountPath"] == f"{environment['XDG_CONFIG_HOME']}/cohort/key"
    (volume,) = [v for v in pod["volumes"] if v["name"] == "key"]
    # Not for everybody, or it is refused; for the group, because the pod's user is not root.
    assert volume["secret"]["defaultMode"] == 0o440
    assert [problems(o) for o in objects if problems(o)] == []


def test_a_bucket_needs_no_place_for_the_store(tmp_path):
    catalog = study(tmp_path)
    catalog.write_text(catalog.read_text().replace("store: store", "store: s3://bucket/store"))
    (pod,) = pods(
        build(folder(render("kubernetes", catalog, tmp_path / "out", memory="1GiB")) / "base")
    )
    assert all(
        m.get("readOnly") for m in pod["containers"][0]["volumeMounts"] if m["name"] == "data"
    )


def test_a_cohort_that_is_all_over_the_machine_is_refused(tmp_path):
    catalog = study(tmp_path)
    catalog.write_text(catalog.read_text().replace("store: store", "store: /srv/results"))
    with pytest.raises(DeployError, match=r"share no folder.*in one folder, or in a bucket"):
        render("kubernetes", catalog, tmp_path / "out")


def test_a_cluster_file_says_image_namespace_workers_and_memory_but_no_secrets(tmp_path):
    on = tmp_path / "pods.yaml"
    on.write_text(
        "cluster: kubernetes\nimage: lab/cohort:2\nnamespace: scans\nworkers: 7\nmemory: 6GiB\nenv: {LANG: C}\n"
    )
    made = render("kubernetes", study(tmp_path), tmp_path / "out", on=str(on))
    (cluster,) = [o for o in both(made)[1] if o["kind"] == "DaskCluster"]
    (worker,) = cluster["spec"]["worker"]["spec"]["containers"]
    assert (cluster["metadata"]["namespace"], cluster["spec"]["worker"]["replicas"]) == ("scans", 7)
    assert (worker["image"], worker["resources"]["limits"]["memory"]) == (
        "lab/cohort:2",
        f"{6144 + BESIDE_BYTES // MIB}Mi",
    )
    assert {"name": "LANG", "value": "C"} in worker["env"]
    on.write_text(on.read_text().replace("LANG: C", "AWS_SECRET_ACCESS_KEY: planted"))
    with pytest.raises(
        DeployError, match=r"env\.AWS_SECRET_ACCESS_KEY looks like a secret.*cohort-s3"
    ) as caught:
        render("kubernetes", next(tmp_path.rglob("catalog.yaml")), tmp_path / "no", on=str(on))
    assert "planted" not in str(caught.value)
    assert not (tmp_path / "no").exists()


def certificates(folder: Path) -> None:
    """By the commands that the README of deploy/ gives."""
    readme = Path(__file__).resolve().parents[2] / "deploy/README.md"
    (block,) = [
        b
        for b in re.findall(r"```console\n(.*?)```", readme.read_text(), flags=re.DOTALL)
        if "openssl" in b
    ]
    for line in block.splitlines():
        if line.startswith("$ openssl"):
            subprocess.run(line[2:], shell=True, check=True, cwd=folder, capture_output=True)
    assert {p.name for p in folder.iterdir()} >= {"ca.crt", "tls.crt", "tls.key"}


def answers(port: int) -> None:
    """Wait until somebody listens."""
    until = time.monotonic() + 100
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.2)
        else:
            return


@pytest.mark.slow
@pytest.mark.cluster
def test_scheduler_workers_and_driver_of_the_overlay_talk_and_only_encrypted(tmp_path):
    """Their own commands and environments, on this machine: loopback for the service's name, a folder for the secret."""
    catalog = study(tmp_path, name="study")
    made = render("kubernetes", catalog, tmp_path / "out", workers=1, memory="1GiB")
    (cluster,) = [o for o in both(made)[1] if o["kind"] == "DaskCluster"]
    (tls := tmp_path / "tls").mkdir()
    certificates(tls)
    port = 18786
    places = {
        "/run/cohort-tls": str(tls),
        f"{UNIT}-scheduler.default.svc:8786": f"127.0.0.1:{port}",
    }

    def here(text: str) -> str:
        for inside, outside in places.items():
            text = text.replace(inside, outside)
        return text

    def start(role: str) -> subprocess.Popen:
        (container,) = cluster["spec"][role]["spec"]["containers"]
        command = [here(w) for w in container["command"]]
        command = [{"8786": str(port), "127.0.0.1:8787": "127.0.0.1:0"}.get(w, w) for w in command]
        environment = {e["name"]: here(e["value"]) for e in container["env"]}
        command[0] = str(Path(sys.executable).with_name("dask"))
        # As in a pod: nothing of the caller's environment.
        return subprocess.Popen(
            command, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)} | environment,
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    on = tmp_path / "cluster.yaml"
    on.write_text(here(made["overlays/cluster/cluster.yaml"].read_text()))
    running = [start("scheduler"), start("worker")]
    try:
        answers(port)
        update = survey(catalog).update(
            str(Path(sys.executable).with_name("cohort")), on=str(on), memory=1 << 30
        )
        done = subprocess.run(update, check=False, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        assert "5 done" in done.stdout
        # Without a certificate nobody gets in.
        code = f"from distributed import Client; Client('tcp://127.0.0.1:{port}', timeout=5)"
        assert (
            subprocess.run(
                [sys.executable, "-c", code], check=False, capture_output=True, timeout=60
            ).returncode
            != 0
        )
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.communicate(timeout=60)
