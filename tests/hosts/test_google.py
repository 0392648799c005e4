"""A maintenance event or a preemption of a Google machine stops the run as SIGTERM does."""

import http.server
import json
import threading

import commands
import pytest

from vtjax.hosts import google

TOY = commands.ROOT / "tests" / "support" / "toy.py"


@pytest.fixture
def server():
    """(environment of a machine, its metadata)."""
    entries = {"maintenance-event": "NONE", "preempted": "FALSE"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = entries.get(self.path.rsplit("/", 1)[-1])
            self.send_response(200 if value else 404)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"GCE_METADATA_HOST": f"localhost:{server.server_port}"}, entries
    server.shutdown()
    server.server_close()


def test_what_is_about_to_happen(server):
    environment, entries = server
    assert google.notice(environment) == ""
    entries["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    assert google.notice(environment) == "maintenance of the machine (TERMINATE_ON_HOST_MAINTENANCE)"
    entries["preempted"] = "TRUE"
    assert google.notice(environment) == "the machine is being preempted"
    assert google.notice({"GCE_METADATA_HOST": "localhost:1"}) == "", "no server, no notice"


def test_a_run_saves_and_ends(server, tmp_path):
    environment, entries = server
    arguments = ("--steps=100000", "--checkpoint_every=0", "--pause=0.02", "--heartbeat=0.2", "--maintenance=0.1")
    process = commands.start(TOY, tmp_path, *arguments, **environment)
    for text in process.stdout:
        if text.startswith("evaluated"):
            entries["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
            break
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0, rest
    assert "maintenance of the machine (TERMINATE_ON_HOST_MAINTENANCE): stopping" in rest and "finished=False" in rest
    step = int(rest.split("step=")[-1].split()[0])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [str(step)]
    beat = json.loads((tmp_path / "heartbeats" / "process-00000.json").read_text())
    assert beat["state"] == "stopped" and beat["step"] == step
