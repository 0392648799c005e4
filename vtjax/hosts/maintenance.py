"""Notices that a Google machine is about to go: a maintenance event or a preemption becomes a SIGTERM, which saves.

The metadata server tells of a maintenance event about a minute before it, of a preemption about half a minute.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

from absl import logging

from vtjax.hosts import cluster

EVERY = 5.0  # seconds between looks


def notice(environment: Mapping[str, str] = os.environ) -> str:
    """What the metadata server says is about to happen, "" where nothing is."""
    if cluster.metadata("preempted", environment) == "TRUE":
        return "the machine is being preempted"
    event = cluster.metadata("maintenance-event", environment) or "NONE"
    return "" if event == "NONE" else f"maintenance of the machine ({event})"


def watch(over: threading.Event, environment: Mapping[str, str] = os.environ) -> bool:
    """Starts looking, on a Google machine, until `over` is set or something is about to happen; whether it did start.

    Then this process is sent SIGTERM, as if by a user; of several processes all stop at the same step.
    """
    if "GCE_METADATA_HOST" not in environment and not cluster.on_google():
        return False

    def run() -> None:
        while not over.wait(EVERY):
            found = notice(environment)
            if found:
                logging.warning("%s: stopping", found)
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=run, name="maintenance", daemon=True).start()
    return True
