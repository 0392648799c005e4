"""Which cluster this process is one of: told by flags, or found in the environment of a launcher or a cloud.

What is known before jax.distributed starts is what a start-up that does not come together can be explained with, so the
place of this process and the names of the others are read here; what is missing JAX finds by itself.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import urllib.error
import urllib.request
from collections.abc import Mapping

from vtjax.errors import VtjaxError

PORT = 8476  # of the coordinator, where nothing names another
_METADATA = "computeMetadata/v1/instance"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """kind: what told of it. count, index: processes and this one's place, None where only JAX can find out.

    coordinator: "host:port" of process 0, "" where JAX finds it. hosts: names by process, () where unknown.
    """

    kind: str
    count: int | None = None
    index: int | None = None
    coordinator: str = ""
    hosts: tuple[str, ...] = ()

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
        found = look(environment)
        if found is not None:
            return found if found.count is None or found.count > 1 else None
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


def _tpu(kind: str, hosts: list[str], own: int, slices: int, place: int, coordinator: str) -> Cluster:
    """One process a host; of several slices the first slice's processes come first. Own names are known, no others."""
    names = tuple(hosts) if slices == 1 else ("",) * (place * len(hosts)) + tuple(hosts)
    first = coordinator.split(":")[0] or (hosts[0] if slices == 1 else "")
    return Cluster(kind, len(hosts) * slices, place * len(hosts) + own, f"{first}:{PORT}" if first else "", names)


def _gke(environment: Mapping[str, str]) -> Cluster | None:
    hosts = [h for h in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if h]
    own = _number(environment, "TPU_WORKER_ID")
    slices = _number(environment, "MEGASCALE_NUM_SLICES") or 1
    if own is None or not hosts or len(hosts) * slices < 2:
        return None
    place = _number(environment, "MEGASCALE_SLICE_ID") or 0
    return _tpu("GKE", hosts, own, slices, place, environment.get("MEGASCALE_COORDINATOR_ADDRESS", ""))


def _kubernetes(environment: Mapping[str, str]) -> Cluster | None:
    """A JobSet as launch.gke writes it: its pods get these variables from their labels."""
    own = _number(environment, "JOB_COMPLETION_INDEX")
    pods = _number(environment, "VTJAX_PODS_PER_JOB")
    if own is None or pods is None:
        return None
    jobs, job = _number(environment, "VTJAX_JOBS") or 1, _number(environment, "JOB_INDEX") or 0
    jobset, group = environment.get("JOBSET_NAME", ""), environment.get("REPLICATED_JOB_NAME", "")
    if not jobset or not group:
        raise VtjaxError(
            "VTJAX_PODS_PER_JOB is set, but not JOBSET_NAME and REPLICATED_JOB_NAME: the pods of a JobSet need all of "
            "them (python -m launch.gke --dry_run shows how they are set)"
        )
    names = tuple(f"{jobset}-{group}-{j}-{p}.{jobset}" for j in range(jobs) for p in range(pods))
    return Cluster("JobSet", jobs * pods, job * pods + own, f"{names[0]}:{PORT}", names)


def _cloud_tpu(environment: Mapping[str, str]) -> Cluster | None:
    """A TPU VM: the workers of the slice are attributes of the instance."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if (platforms and "tpu" not in platforms) or not _has_tpu(environment):
        return None
    endpoints, own = metadata("attributes/worker-network-endpoints", environment), metadata(
        "attributes/agent-worker-number", environment
    )
    if not endpoints or not own:
        return None
    hosts = [entry.split(":")[2] if entry.count(":") == 2 else entry for entry in endpoints.split(",")]
    lines = (metadata("attributes/tpu-env", environment) or "").splitlines()
    told = {name.strip(): value.strip().strip("'\"") for name, _, value in (line.partition(":") for line in lines)}
    slices = int(told.get("MEGASCALE_NUM_SLICES") or 1)
    place = int(told.get("MEGASCALE_SLICE_ID") or 0)
    return _tpu("Cloud TPU", hosts, int(own), slices, place, told.get("MEGASCALE_COORDINATOR_ADDRESS", ""))


def _has_tpu(environment: Mapping[str, str]) -> bool:
    if "GCE_METADATA_HOST" in environment:
        return True
    devices = [*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    return bool(devices) and on_google()


def on_google() -> bool:
    """Whether this is a machine of Google Compute Engine, by its firmware."""
    try:
        return "Google" in pathlib.Path("/sys/class/dmi/id/product_name").read_text()
    except OSError:
        return False


def metadata(name: str, environment: Mapping[str, str] = os.environ, seconds: float = 2.0) -> str | None:
    """An entry of the metadata server of a Google machine, such as "maintenance-event"; None where it has no such."""
    host = environment.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(f"http://{host}/{_METADATA}/{name}", headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError, UnicodeDecodeError):
        return None
