"""What the metadata server of a Google machine tells: the workers of a Cloud TPU, and that the machine is about to go.

It tells of a maintenance event about a minute before, of a preemption about half a minute: either becomes a SIGTERM,
which saves.
"""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping

from absl import logging

EVERY = 5.0  # seconds between looks


def is_here(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a machine of Google Compute Engine, by its firmware or by the name of another server."""
    if "GCE_METADATA_HOST" in environment:
        return True
    try:
        return "Google" in pathlib.Path("/sys/class/dmi/id/product_name").read_text()
    except OSError:
        return False


def has_tpu(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a TPU VM that is to use its TPU."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "tpu" not in platforms:
        return False
    devices = [*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    return "GCE_METADATA_HOST" in environment or (bool(devices) and is_here(environment))


def metadata(name: str, environment: Mapping[str, str] = os.environ, seconds: float = 2.0) -> str:
    """An entry of the metadata server, such as "maintenance-event"; "" where it has no such, or where there is none."""
    host = environment.get("GCE_METADATA_HOST", "metadata.google.internal")
    address = f"http://{host}/computeMetadata/v1/instance/{name}"
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, OSError, UnicodeDecodeError):
        return ""


def notice(environment: Mapping[str, str] = os.environ) -> str:
    """What is about to happen to this machine, "" where nothing is."""
    if metadata("preempted", environment) == "TRUE":
        return "the machine is being preempted"
    event = metadata("maintenance-event", environment) or "NONE"
    return "" if event == "NONE" else f"maintenance of the machine ({event})"


def watch(over: threading.Event, environment: Mapping[str, str] = os.environ) -> None:
    """Starts looking, on a Google machine, until `over` is set or something is about to happen.

    Then this process is sent SIGTERM, as if by a user; of several processes all stop at the same step.
    """

    def run() -> None:
        while not over.wait(EVERY):
            event = notice(environment)
            if event:
                logging.warning("%s: stopping", event)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if is_here(environment):
        threading.Thread(target=run, name="maintenance", daemon=True).start()
