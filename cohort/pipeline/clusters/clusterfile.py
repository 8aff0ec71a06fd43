"""The YAML that says where to run: which kind of cluster, how many workers, how large; checked whole before a job is sent."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from cohort.io.fields import Part, describe, did_you_mean
from cohort.io.yamlfile import YamlError, read_yaml

ADDRESS = re.compile(r"^(tcp|tls|ws|wss)://(\[[^\]\s]+\]|[^:\s/]+):\d+$")
"""Of a Dask scheduler."""

_LOOPBACK = re.compile(r"^(localhost|127(\.\d{1,3}){3}|\[::1\])$")


GRACE_SECONDS = 300
"""Before its time is over, a job hands back what it holds."""


class ClusterError(ValueError):
    """A place to run that cannot be had; one line a problem."""


LEAST_BYTES = 420 << 20
"""Memory without which a worker would spend its time being started again, or call any scan too large."""


def is_loopback(address: str) -> bool:
    """Whether a scheduler's address leads to this machine.

    Examples
    --------
    >>> is_loopback("tcp://127.0.0.1:8786"), is_loopback("tcp://10.0.0.7:8786")
    (True, False)
    """
    found = ADDRESS.match(address)
    return bool(found and _LOOPBACK.match(found[2]))


def parse_bytes(text: str) -> int:
    """``2GiB``, ``500MB`` or a number of bytes -> bytes. Raises `ClusterError` for anything else."""
    from dask.utils import parse_bytes as parse

    try:
        value = int(parse(text))
    except (ValueError, OverflowError) as error:
        raise ClusterError(
            f"memory {text!r}: expected a number with a unit, such as 2GiB or 500MB"
        ) from error
    if value < LEAST_BYTES:
        raise ClusterError(
            f"memory {text!r} is {value} bytes; a worker needs at least {LEAST_BYTES >> 20} MiB, most of which it fills"
            " before it reads a scan"
        )
    return value


def _memory(text: str) -> str:
    parse_bytes(text)
    return text


def _address(text: str) -> str:
    if not ADDRESS.match(text):
        raise ValueError(
            f"expected the address of a scheduler, such as tls://head:8786, found {text!r}"
        )
    return text


def _gateway(text: str) -> str:
    found = re.match(r"^(https?)://(\[[^\]\s]+\]|[^@:/\s]+)(:\d+)?(/[^@\s]*)?$", text)
    if not found:
        raise ValueError(
            f"expected a URL such as https://hub.example.org/services/dask-gateway, found {text!r}"
        )
    if found[1] == "http" and not _LOOPBACK.match(found[2]):
        raise ValueError(
            f"{text} leaves this machine unencrypted, and it hands out the keys of clusters; expected https://"
        )
    return text


def _proxy(text: str) -> str:
    if not re.match(r"^gateway://[^@/\s]+:\d+$", text):
        raise ValueError(
            f"expected an address such as gateway://hub.example.org:8786, found {text!r}"
        )
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"expected one line of text, found {text!r}")
    return text


def _walltime(text: str) -> str:
    found = re.match(r"^(\d+-)?\d{1,2}:[0-5]\d:[0-5]\d$", text)
    if not found or not re.search(r"[1-9]", text):  # none at all means no limit to SLURM
        raise ValueError(
            f"expected hours:minutes:seconds or days-hours:minutes:seconds, found {text!r}"
        )
    return text


def _count(value: Any) -> Any:
    if type(value) is not int or value < 1:
        raise ValueError(f"expected a whole number of at least 1, found {value!r}")
    return value


Memory = Annotated[str, AfterValidator(_memory)]
Count = Annotated[int, BeforeValidator(_count)]
Line = Annotated[str, AfterValidator(_line)]


class Tls(Part):
    """Files of the certificates with which scheduler, workers and client know each other."""

    ca: str = Field(description="the file of the authority's certificate")
    cert: str = Field(description="the file of this side's certificate")
    key: str = Field(description="the file of this side's key")


class Local(Part):
    """Worker processes on this machine, on loopback."""

    cluster: Literal["local"]
    workers: Count | None = None
    memory: Memory | None = None


class Scheduler(Part):
    """A Dask scheduler that is there already."""

    cluster: Literal["scheduler"]
    address: Annotated[str, AfterValidator(_address)] = Field(description="such as tls://head:8786")
    tls: Tls | None = None

    @model_validator(mode="after")
    def _encrypted(self) -> "Scheduler":
        check_encrypted(self.address, has_tls=self.tls is not None)
        return self


class Slurm(Part):
    """Workers as jobs of SLURM, one process of one thread each; lost ones are asked for again.

    `cohort submit` makes the driver a job too, of one core and `driver_memory`, in the same queue.
    """

    cluster: Literal["slurm"]
    workers: Count = 2
    """Jobs at most."""
    minimum: Count | None = None
    """Jobs at least; without it, `workers` all the time."""
    memory: Memory = "4GiB"
    driver_memory: Memory = "2GiB"
    queue: Line | None = None
    account: Line | None = None
    walltime: Annotated[str, AfterValidator(_walltime)] = "04:00:00"
    """Of each job. What is not done by then is done by the next."""
    interface: Line = "lo"
    """Network interface of scheduler and workers; any but `lo` is encrypted."""
    folder: Line | None = None
    """On storage that all nodes share: logs of the jobs and, with encryption, its certificates."""
    scratch: Line | None = None
    """Where a worker may put files, on its node."""
    directives: list[Line] = Field(default_factory=list)
    """More ``#SBATCH`` lines."""
    prologue: list[Line] = Field(default_factory=list)
    """Shell lines before the worker starts, such as ``module load``."""

    @property
    def seconds(self) -> int:
        """The walltime."""
        days, _, rest = self.walltime.rpartition("-")
        hours, minutes, seconds = (int(part) for part in rest.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def grace_seconds(self) -> int:
        """How long before its time is over a job is told, or a worker begins, to hand back what it holds."""
        return min(GRACE_SECONDS, self.seconds // 2)

    @property
    def driver_mebibytes(self) -> int:
        """Memory of the driver's job."""
        return parse_bytes(self.driver_memory) >> 20

    @property
    def driver_directives(self) -> list[str]:
        """`directives` of the driver's job: it idles, and shares its node with others."""
        return [line for line in self.directives if not line.startswith("--exclusive")]

    @model_validator(mode="after")
    def _has_a_shared_folder(self) -> "Slurm":
        if self.interface != "lo" and self.folder is None:
            raise ValueError(
                f"interface {self.interface!r} leaves this machine, so traffic is encrypted; expected `folder`, "
                "a folder that all nodes share, for its certificates"
            )
        return self


class Kubernetes(Part):
    """Workers as pods, made by the operator of dask-kubernetes."""

    cluster: Literal["kubernetes"]
    image: str = Field(description="a container image with this package in it")
    name: str = "cohort"
    namespace: str = "default"
    workers: Count = 2
    memory: Memory = "4GiB"
    env: dict[str, str] = Field(default_factory=dict)


class Gateway(Part):
    """A cluster of a Dask Gateway."""

    cluster: Literal["gateway"]
    address: Annotated[str, AfterValidator(_gateway)] = Field(description="the gateway's URL")
    proxy: Annotated[str, AfterValidator(_proxy)] | None = None
    """Where its schedulers are reached, if not at the same host and port; always encrypted."""
    workers: Count = 2
    auth: str | None = None
    """As dask-gateway names it: basic, jupyterhub or kerberos."""
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)


Where = Local | Scheduler | Slurm | Kubernetes | Gateway

_KINDS: Mapping[str, type[Part]] = {
    "local": Local,
    "scheduler": Scheduler,
    "slurm": Slurm,
    "kubernetes": Kubernetes,
    "gateway": Gateway,
}


def check_encrypted(address: str, *, has_tls: bool) -> None:
    """Raise `ValueError` for a scheduler on another host that everybody on the way could command."""
    if is_loopback(address):
        return
    if not address.startswith(("tls://", "wss://")):
        raise ValueError(
            f"{address} leaves this machine unencrypted, and whoever reaches a scheduler runs code on it; "
            "expected a tls:// address, with `tls: {ca: ..., cert: ..., key: ...}` in a YAML file for --on"
        )
    if not has_tls:
        raise ValueError(
            f"{address} needs certificates; expected `tls: {{ca: ..., cert: ..., key: ...}}` in a YAML file for --on"
        )


def read_where(path: str | Path) -> Where:
    """Read and check a cluster's YAML. Files and folders of this machine that it names are relative to it.

    Raises
    ------
    ClusterError
        One line for every problem: place, what was expected, what was found.
    """
    path = Path(path)
    try:
        content = read_yaml(path)
    except YamlError as error:
        raise ClusterError(str(error)) from error
    kind = str(content.get("cluster", "nothing"))
    if kind not in _KINDS:
        raise ClusterError(
            f"{path}: cluster: expected {', '.join(_KINDS)}, found {kind}{did_you_mean(kind, _KINDS)}"
        )
    part = _KINDS[kind]

    def at(place: Any) -> type[Part]:
        return Tls if len(place) > 1 and place[0] == "tls" else part

    try:
        found = part.model_validate(content)
    except ValidationError as error:
        raise ClusterError("\n".join(f"{path}: {line}" for line in describe(error, at))) from None
    if isinstance(found, Scheduler) and found.tls is not None:
        files = found.tls.model_dump().items()
        found = found.model_copy(
            update={"tls": Tls(**{name: _beside(path, file) for name, file in files})}
        )
    elif isinstance(found, Slurm) and found.folder is not None:
        found = found.model_copy(update={"folder": _beside(path, found.folder)})
    return found  # type: ignore[return-value]


def _beside(path: Path, name: str) -> str:
    return os.path.normpath(path.absolute().parent / Path(name).expanduser())
