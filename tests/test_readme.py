"""Every command of the README is executed, at smoke size and in its order; installation lines are those of .ci/run."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import converting
import numpy as np
import pytest
import videos

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]
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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a reader of the README has it: the repository's configs, recordings and videos with captions."""
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
    rows = [re.search(r"^video,.*", README, re.M)[0]]
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


def test_installation_is_what_ci_does():
    script = (ROOT / ".ci" / "run").read_text()
    for command in (c for c in COMMANDS if not c.startswith(("python -m vtjax", "python -m launch"))):
        assert command in script, command


def test_every_command_runs(place):
    import shlex

    for command in (c for c in COMMANDS if c.startswith(("python -m vtjax", "python -m launch"))):
        arguments = shlex.split(command)
        arguments[0] = sys.executable
        if "vtjax.train" in command:
            arguments += TINY + SMALL[re.search(r"configs/(\w+)\.py", command)[1]]
        arguments = [a.replace("--source=.", f"--source={ROOT}") for a in arguments]
        if "vtjax.plan" in command:
            if importlib.util.find_spec("libtpu") is None:
                continue  # tests/aot say that they are skipped
            for large, small in (("configs/llama.py:7b", "configs/llama.py:smoke"), ("v5p-128", "v5e-4")):
                arguments = [a.replace(large, small) for a in arguments]
            arguments += ["--config.method.text.max_tokens=128", "--config.method.text.chunk=128"]
        if "--stitch_pairs=2000" in arguments:
            arguments[arguments.index("--stitch_pairs=2000")] = "--stitch_pairs=40"
        done = run(place, arguments)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert (place / "runs" / "car-demo" / "report.html").is_file()
    assert (place / "runs" / "car-demo" / "prediction.html").is_file()
    assert (place / "runs" / "clip-videos" / "prediction.html").is_file()
    published, exported = (place / f for f in ("downloads/clip-vit-base-patch32", "exported/clip"))
    assert (published / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
    assert (place / "runs" / "clip-demo" / "report.html").is_file()
    assert (place / "runs" / "clip-demo" / "prediction.html").is_file()


def test_python_examples_run(place):
    printed = []
    for example in re.findall(r"```python\n(.*?)```", README, re.S):
        done = run(place, [sys.executable, "-c", example])
        assert done.returncode == 0, f"{example}\n{done.stderr[-3000:]}"
        printed.append(len(done.stdout.strip().splitlines()))
    assert printed == [3, 8, 12]  # matches, frames, and steps: three seconds at four a second
