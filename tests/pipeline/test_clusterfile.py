"""Where to run: one YAML or address, checked whole, encrypted off this machine."""

import pytest

from cohort.pipeline import cluster
from cohort.pipeline.clusters.clusterfile import (
    ClusterError,
    Gateway,
    Local,
    Scheduler,
    Slurm,
    read_where,
)

TLS = "tls: {ca: ca.pem, cert: cert.pem, key: key.pem}\n"


def written(tmp_path, text):
    path = tmp_path / "where.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cluster: slurm\nworker: 3\n", r"unknown key 'worker'; did you mean 'workers'\?"),
        ("cluster: slrum\n", r"expected local, .*, found slrum; did you mean 'slurm'\?"),
        ("workers: 3\n", "cluster: expected local, .*, found nothing"),
        ("cluster: slurm\nmemory: much\n", "memory: memory 'much': expected a number with a unit"),
        ("cluster: slurm\nmemory: 1MB\n", "a worker needs at least 420 MiB"),
        ("cluster: slurm\nworkers: 0\n", "workers: expected a whole number of at least 1, found 0"),
        ("cluster: slurm\nwalltime: tomorrow\n", "walltime: expected hours:minutes:seconds"),
        ("cluster: slurm\nwalltime: '01:99:00'\n", "walltime: expected hours:minutes:seconds"),
        ("cluster: slurm\nwalltime: '00:00:00'\n", "walltime: expected hours:minutes:seconds"),
        ("cluster: slurm\ninterface: ib0\n", "interface 'ib0' leaves this machine, .* expected `folder`"),
        ("cluster: scheduler\n", "address: expected such as tls://head:8786, found no such key"),
        ("cluster: scheduler\naddress: head\n", "address: expected the address of a scheduler"),
        ("cluster: scheduler\naddress: tcp://head:8786\n", "leaves this machine unencrypted"),
        ("cluster: scheduler\naddress: tcp://head:8786\n" + TLS, "leaves this machine unencrypted"),
        ("cluster: scheduler\naddress: tls://head:8786\n", "tls://head:8786 needs certificates"),
        ("cluster: scheduler\naddress: tls://head:8786\ntls: {ca: a, cert: b}\n", "tls.key: expected"),
        ("cluster: gateway\naddress: https://me:secret@hub\n", "address: expected a URL"),
        ("cluster: gateway\naddress: http://hub/gateway\n", "leaves this machine unencrypted"),
        ("cluster: gateway\naddress: https://hub\nproxy: tcp://hub:1\n", "proxy: expected an address such as gateway://"),
        ("cluster: slurm\nqueue: \"a\\nb\"\n", "queue: expected one line of text"),
        ("cluster: slurm\ndirectives: [\"--x\\n#y\"]\n", "expected one line of text"),
        ("cluster: kubernetes\n", "image: expected a container image"),
        ("cluster: [slurm]\n", "cluster: expected local"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_place(tmp_path, text, says):
    with pytest.raises(ClusterError, match=says) as caught:
        read_where(written(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "where.yaml"))
    assert "secret" not in str(caught.value) or "me:secret" in text


def test_every_problem_is_told_at_once(tmp_path):
    with pytest.raises(ClusterError) as caught:
        read_where(written(tmp_path, "cluster: slurm\nworkers: 0\nmemory: much\nqeue: a\n"))
    assert len(str(caught.value).splitlines()) == 3


def test_what_a_file_states_is_read(tmp_path):
    text = "cluster: slurm\nworkers: 7\nminimum: 2\nqueue: long\nwalltime: 2-04:00:00\ndirectives: --exclusive\n"
    assert read_where(written(tmp_path, text.replace("--exclusive", "[--exclusive]"))) == Slurm(
        cluster="slurm", workers=7, minimum=2, queue="long", walltime="2-04:00:00", directives=["--exclusive"]
    )  # fmt: skip
    gateway = "cluster: gateway\naddress: https://hub/gateway\nproxy: gateway://hub:8786\n"
    assert read_where(written(tmp_path, gateway)) == Gateway(
        cluster="gateway", address="https://hub/gateway", proxy="gateway://hub:8786"
    )


def test_files_that_it_names_lie_beside_it(tmp_path):
    scheduler = "cluster: scheduler\naddress: tls://head:8786\ntls: {ca: ca.pem, cert: /a/cert.pem, key: ../key.pem}\n"
    found = read_where(written(tmp_path, scheduler))
    assert isinstance(found, Scheduler)
    assert found.tls is not None
    assert (found.tls.ca, found.tls.cert) == (str(tmp_path / "ca.pem"), "/a/cert.pem")
    assert found.tls.key == str(tmp_path.parent / "key.pem")
    slurm = read_where(written(tmp_path, "cluster: slurm\nfolder: jobs\n"))
    assert isinstance(slurm, Slurm)
    assert slurm.folder == str(tmp_path / "jobs")


@pytest.mark.parametrize(
    ("walltime", "seconds", "grace"),
    [("00:01:00", 60, 30), ("04:00:00", 14_400, 300), ("2-04:30:05", 189_005, 300), ("00:10:00", 600, 300)],
)  # fmt: skip
def test_a_job_is_told_before_its_time_is_over(walltime, seconds, grace):
    found = Slurm(cluster="slurm", walltime=walltime)
    assert (found.seconds, found.grace_seconds) == (seconds, grace)


@pytest.mark.parametrize("on", ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:8786"])
def test_a_scheduler_on_this_machine_needs_no_certificates(on):
    assert cluster.where(on) == Scheduler(cluster="scheduler", address=on)


@pytest.mark.parametrize(
    "on", ["tcp://10.0.0.7:8786", "tcp://head:8786", "tls://head:8786", "ws://127.0.0.1.evil.org:1"]
)
def test_a_scheduler_elsewhere_is_refused_without_certificates(on):
    with pytest.raises(ClusterError, match="tls"):
        cluster.where(on)


def test_a_place_that_is_none_is_refused():
    assert cluster.where("local") == Local(cluster="local")
    with pytest.raises(ClusterError, match="expected local, the address of a scheduler"):
        cluster.where("the big one")
    with pytest.raises(ClusterError, match="expected a YAML file"):
        cluster.where("nowhere.yaml")


def pretend_another_scipy():
    import importlib.metadata

    real = importlib.metadata.version
    importlib.metadata.version = lambda name: "0.0.1" if name == "scipy" else real(name)


@pytest.mark.cluster
def test_a_worker_with_another_version_is_refused():
    with cluster.connect(workers=1, memory=512 << 20) as client:
        cluster.check_versions(client)
        client.run(pretend_another_scipy)
        with pytest.raises(ClusterError, match=r"has scipy 0\.0\.1, expected"):
            cluster.check_versions(client)
