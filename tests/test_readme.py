"""Every command and Python example of the README and of the pages under docs/ is executed, at smoke size and in order.

All pages share one folder and the runs made in it; what several pages show is run once. Installation lines are those of
.ci/run, and commands for clusters are dry runs.
"""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys

import converting
import numpy as np
import pytest
import videos

ROOT = pathlib.Path(__file__).parents[1]
# In the order of a reader: a later page may use the runs of an earlier one.
PAGES = (
    "README.md", "docs/index.md", "docs/motions.md", "docs/videos.md", "docs/weights.md", "docs/hosts.md",
    "docs/plans.md", "docs/settings.md", "docs/methods/car.md", "docs/methods/ovoad.md", "docs/methods/clip.md",
    "docs/methods/llama.md", "docs/adding_a_method.md", "docs/results.md",
)  # fmt: skip
VIDEOS = (ROOT / "docs" / "videos.md").read_text()
OURS = ("python -m vtjax", "python -m launch")
TINY = ["--config.train.steps=3", "--config.train.batch_size=8", "--config.train.eval_every=0",
        "--config.optim.warmup_steps=1"]  # fmt: skip
SMALL = {
    "car": [
        "--config.method.model.latent=16", "--config.method.model.layers=1", "--config.method.model.ff=32",
        "--config.method.data.world_train=48", "--config.method.data.world_test=40", "--config.method.data.val_size=16",
    ],
    "clip": [
        "--config.method.model.vision.image_size=32", "--config.method.model.vision.width=32",
        "--config.method.model.vision.layers=1", "--config.method.model.text.layers=1",
        "--config.method.model.text.width=32", "--config.method.model.temporal_layers=1",
        "--config.method.data.world_train=48", "--config.method.data.world_test=40", "--config.method.data.val_size=16",
        "--config.method.data.world_frames=4",
    ],
    "ovoad": [
        "--config.stages.pretrain.train.steps=2", "--config.stages.pretrain.train.batch_size=8",
        "--config.stages.pretrain.optim.warmup_steps=1", "--config.method.encoder.clip.model.vision.image_size=32",
        "--config.method.encoder.clip.model.vision.width=32", "--config.method.encoder.clip.model.vision.layers=1",
        "--config.method.encoder.clip.model.text.layers=1", "--config.method.encoder.clip.model.temporal_layers=1",
        "--config.method.encoder.clip.data.world_train=48", "--config.method.encoder.clip.data.world_test=16",
        "--config.method.encoder.clip.data.val_size=8", "--config.method.encoder.clip.data.world_frames=4",
        "--config.method.model.width=32", "--config.method.model.dntr_layers=1",
        "--config.method.model.cluster_layers=1", "--config.method.data.world_train=2",
        "--config.method.data.world_test=3", "--config.method.data.val_size=2",
    ],
}  # fmt: skip




def steps():
    """(page, "sh" or "python", command or example) in order, each once."""
    shown = {}
    for page in PAGES:
        for kind, block in re.findall(r"```(sh|python)\n(.*?)```", (ROOT / page).read_text(), re.S):
            for step in block.splitlines() if kind == "sh" else [block]:
                if step.strip():
                    shown.setdefault((kind, step), page)
    return [(page, kind, step) for (kind, step), page in shown.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a reader of the pages has it: the repository's configs, recordings and videos with captions."""
    from vtjax.data.motion.features import features_to_joints
    from vtjax.worlds.motion_world import MotionWorld, MotionWorldSettings

    place = tmp_path_factory.mktemp("readme")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "my_motions").mkdir()
    world = MotionWorld(3, 16, settings=MotionWorldSettings(max_events=1, frames=(48, 60)))
    for i in range(len(world)):
        clip = world[i]
        np.save(place / "my_motions" / f"clip_{i:02d}.npy", features_to_joints(clip.features))
        (place / "my_motions" / f"clip_{i:02d}.txt").write_text(clip.captions[0].text + "\n")
    (place / "my_videos" / "tea").mkdir(parents=True)
    rows = [re.search(r"^video,.*", VIDEOS, re.M)[0]]
    for i in range(6):
        videos.write(place / "my_videos" / "tea" / f"{i}.mp4", 20, brightness=20 * i)
        times = "0:00,0:01.5" if i % 2 else ","
        rows.append(f"tea/{i}.mp4,{times},someone moves a bar over slide {i},move,{'' if i else 'test'}")
    (place / "my_videos" / "list.csv").write_text("\n".join(rows))
    (place / "my_videos" / "classes.txt").write_text("pouring milk\nmoving a bar\n")
    converting.downloads(place / "downloads")
    return place


def run(place, arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, timeout=600)


def small(command):
    """The command's arguments at a size for tests; None where what it needs is not installed."""
    arguments = shlex.split(command)
    arguments[0] = sys.executable
    config = re.search(r"configs/(\w+)\.py", command)
    if "vtjax.train" in command and config and config[1] in SMALL:
        arguments += TINY + SMALL[config[1]]
    if "vtjax.plan" in command:
        if importlib.util.find_spec("libtpu") is None:
            return None  # tests/aot say that they are skipped
        for large, little in (("configs/llama.py:7b", "configs/llama.py:smoke"), ("v5p-128", "v5e-4")):
            arguments = [a.replace(large, little) for a in arguments]
        arguments += ["--config.method.text.max_tokens=128", "--config.method.text.chunk=128"]
    arguments = [a.replace("--source=.", f"--source={ROOT}") for a in arguments]
    return [a.replace("--stitch_pairs=2000", "--stitch_pairs=40") for a in arguments]


def test_every_page_with_commands_is_read():
    for page in (ROOT / "docs").rglob("*.md"):
        if re.search(r"```(sh|python)\n", page.read_text()):
            assert str(page.relative_to(ROOT)) in PAGES


def test_installation_is_what_ci_does():
    script = (ROOT / ".ci" / "run").read_text()
    for page, kind, command in steps():
        if kind == "sh" and not command.startswith(OURS):
            assert command in script, f"{page}: {command}"


def test_commands_for_clusters_are_dry_runs():
    for page, kind, command in steps():
        if kind == "sh" and re.search(r"launch\.(tpu|gke|slurm)", command):
            assert "--dry_run" in command, f"{page}: {command}"


def test_every_command_and_example_runs(place):
    printed = {}
    for page, kind, step in steps():
        if kind == "python":
            arguments = [sys.executable, "-c", step]
        elif step.startswith(OURS):
            arguments = small(step)
        else:
            continue
        if arguments is None:
            continue
        done = run(place, arguments)
        assert done.returncode == 0, f"{page}: {step}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        if kind == "python":
            printed[page] = len(done.stdout.strip().splitlines())
    assert (place / "runs" / "car-demo" / "report.html").is_file()
    assert (place / "runs" / "car-demo" / "prediction.html").is_file()
    assert (place / "runs" / "clip-videos" / "prediction.html").is_file()
    published, exported = (place / f for f in ("downloads/clip-vit-base-patch32", "exported/clip"))
    assert (published / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
    assert (place / "runs" / "clip-demo" / "report.html").is_file()
    assert (place / "runs" / "clip-demo" / "prediction.html").is_file()
    # Matches and two results; how the file was read, and matches; frames; steps, three seconds at four a second.
    expected = {"README.md": 5, "docs/motions.md": 6, "docs/weights.md": 8, "docs/methods/ovoad.md": 12}
    assert {page: printed[page] for page in expected} == expected
