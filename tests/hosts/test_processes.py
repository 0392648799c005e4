"""Which processes are found: by flags, and in the environment of each launcher and cloud."""

import http.server
import threading

import jax
import pytest

from vtjax.errors import VtjaxError
from vtjax.hosts import cluster, heartbeat, processes, session
from vtjax.hosts.cluster import Cluster

SLURM = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_NODELIST": "gpu[09-10]"}
JOBSET = {
    "JOB_COMPLETION_INDEX": "1", "VTJAX_PODS_PER_JOB": "2", "VTJAX_JOBS": "3", "JOB_INDEX": "2",
    "JOBSET_NAME": "run", "REPLICATED_JOB_NAME": "train",
}  # fmt: skip
GKE = {"TPU_WORKER_HOSTNAMES": "a.x,b.x", "TPU_WORKER_ID": "1"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "first:8080"}
PODS = tuple(f"run-train-{j}-{p}.run" for j in range(3) for p in range(2))


@pytest.mark.parametrize(
    "variables, found",
    [
        ({}, None),
        ({"SLURM_NTASKS": "4"}, None),  # the batch script, not a task of it
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (SLURM, Cluster("Slurm", 4, 3, "", ("gpu09", "gpu09", "gpu10", "gpu10"))),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}, Cluster("Open MPI", 4, 0)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, None),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
         Cluster("JAX_COORDINATOR_ADDRESS", 2, 1, "a:1")),
        ({"TPU_WORKER_HOSTNAMES": "one", "TPU_WORKER_ID": "0"}, None),
        (GKE, Cluster("GKE", 2, 1, "a.x:8476", ("a.x", "b.x"))),
        ({**GKE, **SLICES}, Cluster("GKE", 4, 3, "first:8476", ("", "", "a.x", "b.x"))),
        (JOBSET, Cluster("JobSet", 6, 5, "run-train-0-0.run:8476", PODS)),
    ],
)  # fmt: skip
def test_the_environment_names_them(variables, found):
    assert cluster.find({"JAX_PLATFORMS": "cpu", **variables}) == found


def test_what_is_wrong_in_the_environment_is_named():
    with pytest.raises(VtjaxError, match="SLURM_PROCID='x' is not a number"):
        cluster.find({**SLURM, "SLURM_PROCID": "x"})
    with pytest.raises(VtjaxError, match="JOBSET_NAME and REPLICATED_JOB_NAME"):
        cluster.find({**JOBSET, "JOBSET_NAME": ""})


@pytest.mark.parametrize(
    "text, names",
    [
        ("node001", ["node001"]),
        ("node001,host2", ["node001", "host2"]),
        ("node[001-003,7],host2", ["node001", "node002", "node003", "node7", "host2"]),
        ("a[9-11]-ib,b[1,3]", ["a9-ib", "a10-ib", "a11-ib", "b1", "b3"]),
    ],
)
def test_node_lists(text, names):
    assert cluster.expand_nodes(text) == names


@pytest.mark.parametrize(
    "flags, words",
    [
        (("a:1", 2, -1), "belong together"),
        (("", 2, 0), "belong together"),
        (("a", 2, 0), "HOST:PORT is needed"),
        (("a:1", 2, 2), r"--process=2 must lie in 0 to 1"),
    ],
)
def test_flags_that_do_not_fit(flags, words):
    assert cluster.from_flags("", -1, -1) is None
    assert cluster.from_flags("a:1", 2, 1) == Cluster("flags", 2, 1, "a:1")
    with pytest.raises(VtjaxError, match=words):
        cluster.from_flags(*flags)


@pytest.fixture
def metadata_server():
    """A metadata server of Google Compute Engine on this machine: (its environment, its entries)."""
    entries = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/")
            known = name in entries and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(entries[name].encode() if known else b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"GCE_METADATA_HOST": f"localhost:{server.server_port}"}, entries
    server.shutdown()
    server.server_close()


def test_a_cloud_tpu_is_asked_of_its_metadata(metadata_server):
    environment, entries = metadata_server
    assert cluster.find(environment) is None
    entries["attributes/agent-worker-number"] = "1"
    entries["attributes/worker-network-endpoints"] = "x:1:10.0.0.4,x:2:10.0.0.5"
    assert cluster.find(environment) == Cluster("Cloud TPU", 2, 1, "10.0.0.4:8476", ("10.0.0.4", "10.0.0.5"))
    assert cluster.find({**environment, "JAX_PLATFORMS": "cpu"}) is None, "the TPU is not to be used"
    entries["attributes/worker-network-endpoints"] = "w0,w1"
    entries["attributes/tpu-env"] = (
        "ACCELERATOR_TYPE: 'v5p-16'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.1.1.1:8080'\n"
    )
    assert cluster.find(environment) == Cluster("Cloud TPU", 4, 3, "10.1.1.1:8476", ("", "", "w0", "w1"))
    entries["attributes/worker-network-endpoints"], entries["attributes/tpu-env"] = "w0", ""
    assert cluster.find(environment) is None, "a slice of one host"


@pytest.fixture
def joined(monkeypatch):
    """Calls of jax.distributed.initialize, which does nothing."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append(a))
    monkeypatch.setattr(cluster, "find", lambda: None)
    monkeypatch.setattr(session, "current", None)
    return calls


def test_when_processes_are_joined(joined, tmp_path):
    processes.join("off")
    processes.join("auto")
    processes.join("auto", coordinator="localhost:1", processes=1, process=0)
    assert not joined
    with pytest.raises(VtjaxError, match="--multihost=on, but the environment names no other process"):
        processes.join("on")
    with pytest.raises(VtjaxError, match="--multihost=off, but --coordinator"):
        processes.join("off", coordinator="a:1", processes=2, process=0)


def test_one_process_agrees_with_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "current", None)
    processes.join("off", tmp_path / "beats", limits=processes.Limits(heartbeat=60))
    assert processes.gather("a", "x") == ["x"] and processes.from_main("a", "y") == "y"
    assert processes.all_well("a", "bad") == "bad"
    processes.same("data", {"a": 1})
    processes.barrier("b", 0.01)
    assert processes.one_after_another("c", lambda: 5) == 5 and not processes.several()
    assert not processes.broke(RuntimeError("UNAVAILABLE: gloo"))
    processes.note(step=3)
    processes.leave()
    (beat,) = heartbeat.read(tmp_path / "beats").values()
    assert beat["state"] == "finished" and beat["step"] == 3 and beat["processes"] == 1


def test_the_library_names_what_must_be_alike():
    found = processes.identity()
    assert found["jax"] == jax.__version__ and len(found["vtjax source"]) == 12 and "XLA_FLAGS" in found
    assert processes.source_digest() == found["vtjax source"]
