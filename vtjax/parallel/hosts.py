"""Several processes: starting jax.distributed where a cluster is found."""

from __future__ import annotations

import os

import jax

# Set by Slurm, Open MPI, Kubernetes JobSet and Cloud TPU; jax.distributed reads the addresses itself.
_SIGNS = ("JAX_COORDINATOR_ADDRESS", "COORDINATOR_ADDRESS", "MEGASCALE_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES")


def initialize(mode: str) -> None:
    """mode: "always" and "never" as they say; "auto" initializes where the environment names more than one process."""
    if mode == "never" or (mode == "auto" and not _cluster()):
        return
    jax.distributed.initialize()


def _cluster() -> bool:
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 or int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return True
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return any(os.environ.get(sign) for sign in _SIGNS[:3]) or "," in hosts
