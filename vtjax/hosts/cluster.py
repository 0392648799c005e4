"""Which cluster this process is part of, by flags or by the environment of a launcher or a cloud.

jax.distributed.initialize() knows most of them, but neither says whether there is one nor names the hosts that have not
come: so the place of this process and the names of the others are read here. Addresses and devices are left to JAX,
except for what it does not know: the flags, and a JobSet without TPUs.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping

from vtjax.errors import VtjaxError
from vtjax.hosts import google

PORT = 8476  # of the coordinator, where nothing names another


@dataclasses.dataclass(frozen=True)
class Cluster:
    """kind: what names it. count, index: processes, and the place of this one.

    coordinator: "host:port" of process 0, "" where only JAX knows. hosts: names by process, () where unknown.
    """

    kind: str
    count: int
    index: int
    coordinator: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def known_to_jax(self) -> bool:
        """Whether jax.distributed.initialize() joins it by itself, and knows which devices are whose."""
        return self.kind in ("Slurm", "Open MPI", "GKE", "Cloud TPU")

    def name_of(self, process: int) -> str:
        """The host of a process as the cluster names it, "" where it does not."""
        return self.hosts[process] if process < len(self.hosts) else ""


def from_flags(coordinator: str, count: int, index: int) -> Cluster | None:
    """The cluster of --coordinator, --processes and --process; None where none of them is given.

    Raises:
      VtjaxError: some but not all are given, or they do not fit each other.
    """
    if not coordinator and count < 0 and index < 0:
        return None
    if not coordinator or count < 0 or index < 0:
        raise VtjaxError("--coordinator=HOST:PORT, --processes=N and --process=I belong together: give all three")
    if not re.search(r":\d+$", coordinator):
        raise VtjaxError(f"--coordinator={coordinator}: HOST:PORT is needed, for example localhost:{PORT}")
    if not 0 <= index < count:
        raise VtjaxError(f"--process={index} must lie in 0 to {count - 1}, as --processes={count}")
    return Cluster("flags", count, index, coordinator)


def find(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster of more than one process that the environment names; None on a machine by itself.

    Looked for in this order: JAX_COORDINATOR_ADDRESS (with JAX_NUM_PROCESSES, JAX_PROCESS_ID), Slurm, Open MPI,
    a TPU on GKE, a Kubernetes JobSet, a Cloud TPU (asked of its metadata server).

    Raises:
      VtjaxError: variables that are not numbers, or Kubernetes without what it takes.
    """
    for look in (_jax, _slurm, _open_mpi, _gke, _kubernetes, _cloud_tpu):
        cluster = look(environment)
        if cluster is not None:
            return cluster if cluster.count > 1 else None
    return None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"\d+", text):
        raise VtjaxError(f"environment variable {name}={text!r} is not a number")
    return int(text)


def _jax(environment: Mapping[str, str]) -> Cluster | None:
    address = environment.get("JAX_COORDINATOR_ADDRESS", "")
    count, index = _number(environment, "JAX_NUM_PROCESSES"), _number(environment, "JAX_PROCESS_ID")
    if not address or count is None or index is None:
        return None
    return Cluster("JAX_COORDINATOR_ADDRESS", count, index, address)


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    count, index = _number(environment, "SLURM_NTASKS"), _number(environment, "SLURM_PROCID")
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    if count is None or index is None or not nodes:  # without a step this is the batch script, not a task
        return None
    names = expand_nodes(nodes)
    each = count // len(names) if names and count % len(names) == 0 else 0
    return Cluster("Slurm", count, index, hosts=tuple(name for name in names for _ in range(each)))


def expand_nodes(text: str) -> list[str]:
    """Slurm's "node[01-03,7],login" as names; zeros in front are kept."""
    names = []
    for part in re.findall(r"[^,\[]+(?:\[[^\]]*\])?[^,\[]*", text):
        match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
        if not match:
            names.append(part)
            continue
        before, ranges, after = match.groups()
        for piece in ranges.split(","):
            first, _, last = piece.partition("-")
            for number in range(int(first), int(last or first) + 1):
                names.append(f"{before}{number:0{len(first)}d}{after}")
    return names


def _open_mpi(environment: Mapping[str, str]) -> Cluster | None:
    count, index = _number(environment, "OMPI_COMM_WORLD_SIZE"), _number(environment, "OMPI_COMM_WORLD_RANK")
    return None if count is None or index is None else Cluster("Open MPI", count, index)


def _tpu(kind: str, hosts: list[str], place: int, settings: Mapping[str, str]) -> Cluster:
    """One process a host; of several slices the first slice's processes come first, and only one's own have names."""
    slices = _number(settings, "MEGASCALE_NUM_SLICES") or 1
    before = (_number(settings, "MEGASCALE_SLICE_ID") or 0) * len(hosts)
    first = settings.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0] or (hosts[0] if slices == 1 else "")
    names = tuple(hosts) if slices == 1 else ("",) * before + tuple(hosts)
    return Cluster(kind, len(hosts) * slices, before + place, f"{first}:{PORT}" if first else "", names)


def _gke(environment: Mapping[str, str]) -> Cluster | None:
    hosts = [name for name in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    place = _number(environment, "TPU_WORKER_ID")
    cluster = _tpu("GKE", hosts, place, environment) if hosts and place is not None else None
    return cluster if cluster is not None and cluster.count > 1 else None


def _kubernetes(environment: Mapping[str, str]) -> Cluster | None:
    """A JobSet as launch.gke writes it: its pods get these variables from their labels."""
    place, pods = _number(environment, "JOB_COMPLETION_INDEX"), _number(environment, "VTJAX_PODS_PER_JOB")
    if place is None or pods is None:
        return None
    jobs, job = _number(environment, "VTJAX_JOBS") or 1, _number(environment, "JOB_INDEX") or 0
    jobset, group = environment.get("JOBSET_NAME", ""), environment.get("REPLICATED_JOB_NAME", "")
    if not jobset or not group:
        raise VtjaxError(
            "VTJAX_PODS_PER_JOB is set, but not JOBSET_NAME and REPLICATED_JOB_NAME: the pods of a JobSet need all of "
            "them (python -m launch.gke --dry_run shows how they are set)"
        )
    names = tuple(f"{jobset}-{group}-{j}-{p}.{jobset}" for j in range(jobs) for p in range(pods))
    return Cluster("JobSet", jobs * pods, job * pods + place, f"{names[0]}:{PORT}", names)


def _cloud_tpu(environment: Mapping[str, str]) -> Cluster | None:
    """A TPU VM: the workers of the slice are attributes of the instance."""
    if not google.has_tpu(environment):
        return None
    place, endpoints, lines = (
        google.metadata(f"attributes/{name}", environment)
        for name in ("agent-worker-number", "worker-network-endpoints", "tpu-env")
    )
    if not endpoints or not place:
        return None
    hosts = [entry.split(":")[2] if entry.count(":") == 2 else entry for entry in endpoints.split(",")]
    pairs = (line.partition(":") for line in lines.splitlines())
    return _tpu("Cloud TPU", hosts, int(place), {name.strip(): value.strip(" '\"") for name, _, value in pairs})
