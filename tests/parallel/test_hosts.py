"""When several processes are found and joined."""

import jax
import pytest

from vtjax.parallel import hosts


@pytest.mark.parametrize(
    "variables, found",
    [
        ({}, False),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "one"}, False),
        ({"TPU_WORKER_HOSTNAMES": "one,two"}, True),
    ],
)
def test_processes_are_joined_where_the_environment_names_several(variables, found, monkeypatch):
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", *hosts._SIGNS):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda: calls.append(1))
    hosts.initialize("never")
    assert not calls
    hosts.initialize("auto")
    assert bool(calls) == found
    hosts.initialize("always")
    assert len(calls) == found + 1
