"""A JobSet on Google Kubernetes Engine: submit, watch, logs, delete.

    python -m launch.gke submit --name=run --image=I --accelerator=tpu-v5p-slice --topology=4x4x4 --hosts=16 \
        -- vtjax.train --config=configs/car.py --work_directory=gs://BUCKET/run

One job of the set is a slice, one pod a host. The image holds vtjax. When a pod fails all are started again, at most
--restarts times, and go on from the last checkpoint; a pod that is to go has --grace_seconds to save. Needs kubectl and
the JobSet controller. Without --accelerator the pods have CPUs only.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

from absl import flags

from launch import common
from vtjax.errors import VtjaxError

flags.adopt_module_key_flags(common)
NAME = flags.DEFINE_string("name", "", "Name of the JobSet.")
NAMESPACE = flags.DEFINE_string("namespace", "default", "Kubernetes namespace.")
IMAGE = flags.DEFINE_string("image", "", "Container image with vtjax installed.")
ACCELERATOR = flags.DEFINE_string("accelerator", "", "cloud.google.com/gke-tpu-accelerator, such as tpu-v5p-slice.")
TOPOLOGY = flags.DEFINE_string("topology", "", "cloud.google.com/gke-tpu-topology, such as 4x4x4.")
SLICES = flags.DEFINE_integer("slices", 1, "Number of slices.", lower_bound=1)
HOSTS = flags.DEFINE_integer("hosts", 1, "Hosts of a slice: its chips over --chips_per_host.", lower_bound=1)
CHIPS = flags.DEFINE_integer("chips_per_host", 4, "TPU chips of a host.", lower_bound=1)
SPOT = flags.DEFINE_bool("spot", False, "Spot nodes.")
ACCOUNT = flags.DEFINE_string("service_account", "", "Kubernetes service account, for the bucket.")
RESTARTS = flags.DEFINE_integer("restarts", 20, "How often the set may be started again.")
GRACE = flags.DEFINE_integer("grace_seconds", 300, "Time to save before a pod goes.")
ENVIRONMENT = flags.DEFINE_multi_string("env", [], "NAME=VALUE of the containers; may be repeated.")
OUTPUT = flags.DEFINE_string("output", "", "File for the manifest; default NAME.jobset.json.")
ACTIONS = ("submit", "watch", "logs", "delete")
GROUP = "train"


def _label(name: str, label: str) -> dict:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}}


def manifest(program: list[str]) -> dict:
    """The JobSet.

    Raises:
      VtjaxError: flags that do not fit each other.
    """
    common.needed(image=IMAGE.value)
    if bool(ACCELERATOR.value) != bool(TOPOLOGY.value):
        raise VtjaxError("--accelerator and --topology belong together")
    if TOPOLOGY.value:
        chips = 1
        for side in TOPOLOGY.value.split("x"):
            if not side.isdigit():
                raise VtjaxError(f"--topology={TOPOLOGY.value}: such as 4x4x4")
            chips *= int(side)
        if chips != HOSTS.value * CHIPS.value:
            raise VtjaxError(
                f"--topology={TOPOLOGY.value} has {chips} chips, --hosts={HOSTS.value} of {CHIPS.value} chips have "
                f"{HOSTS.value * CHIPS.value}"
            )
    bad = [pair for pair in ENVIRONMENT.value if "=" not in pair]
    if bad:
        raise VtjaxError(f"--env={bad[0]}: NAME=VALUE is needed")
    environment = [
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        _label("JOBSET_NAME", "jobset.sigs.k8s.io/jobset-name"),
        _label("REPLICATED_JOB_NAME", "jobset.sigs.k8s.io/replicatedjob-name"),
        _label("JOB_INDEX", "jobset.sigs.k8s.io/job-index"),
        {"name": "VTJAX_JOBS", "value": str(SLICES.value)},
        {"name": "VTJAX_PODS_PER_JOB", "value": str(HOSTS.value)},
        *({"name": name, "value": value} for name, _, value in (pair.partition("=") for pair in ENVIRONMENT.value)),
    ]
    container: dict[str, Any] = {
        "name": "vtjax",
        "image": IMAGE.value,
        # Kubernetes would put variables in place of $(NAME): $$( is its way of writing $(.
        "command": [word.replace("$(", "$$(") for word in common.module_command(program, "python")],
        "env": environment,
        "ports": [{"containerPort": 8471}, {"containerPort": 8476}, {"containerPort": 8080}],
    }
    pod: dict = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE.value,
        "containers": [container],
    }
    selector = {}
    if ACCELERATOR.value:
        container["resources"] = {"limits": {"google.com/tpu": CHIPS.value}}
        selector["cloud.google.com/gke-tpu-accelerator"] = ACCELERATOR.value
        selector["cloud.google.com/gke-tpu-topology"] = TOPOLOGY.value
    if SPOT.value:
        selector["cloud.google.com/gke-spot"] = "true"
    if selector:
        pod["nodeSelector"] = selector
    if ACCOUNT.value:
        pod["serviceAccountName"] = ACCOUNT.value
    job = {
        "parallelism": HOSTS.value,
        "completions": HOSTS.value,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": pod},
    }
    metadata: dict = {"name": NAME.value, "namespace": NAMESPACE.value}
    if ACCELERATOR.value:  # one slice, one node pool
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": RESTARTS.value},
            "replicatedJobs": [{"name": GROUP, "replicas": SLICES.value, "template": {"spec": job}}],
        },
    }


def main(action: str, program: list[str], runner: common.Runner) -> int:
    common.needed(name=NAME.value)
    chosen = f"--selector=jobset.sigs.k8s.io/jobset-name={NAME.value}"
    kubectl = ["kubectl", f"--namespace={NAMESPACE.value}"]
    if action == "submit":
        common.work_directory(program)
        path = pathlib.Path(OUTPUT.value or f"{NAME.value}.jobset.json")
        runner.write(path, json.dumps(manifest(program), indent=2) + "\n")
        runner.run([*kubectl, "apply", f"--filename={path}"])
    elif action == "watch":
        return runner.run([*kubectl, "get", "jobset,pods", chosen, "--watch"], check=False)
    elif action == "logs":
        return runner.run([*kubectl, "logs", "--follow", "--prefix", "--max-log-requests=1024", chosen], check=False)
    else:
        runner.run([*kubectl, "delete", "jobset", NAME.value])
    return 0


if __name__ == "__main__":
    common.start(main, ACTIONS)
