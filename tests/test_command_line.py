"""The commands as a user types them: quick help, and one clear message for whatever is wrong."""

import ast
import json
import time

import commands
import numpy as np
import pytest

from vtjax import command_line
from vtjax.errors import VtjaxError

MAINS = sorted(
    path.stem for path in (commands.ROOT / "vtjax").glob("*.py")
    if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body)
)  # fmt: skip
SMOKE = "--config=configs/car.py:smoke"


def test_every_main_is_found():
    assert {"train", "evaluate", "predict", "prepare"} <= set(MAINS)


@pytest.mark.parametrize("main", MAINS)
def test_help_is_quick(main):
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy with something else
        began = time.perf_counter()
        result = commands.run("-m", f"vtjax.{main}", "--help")
        seconds.append(time.perf_counter() - began)
        if seconds[-1] < 3:
            break
    assert min(seconds) < 3, seconds
    assert "Traceback" not in result.stderr and f"vtjax.{main}" in result.stdout
    flag = {"train": "--work_directory", "prepare": "--input", "predict": "--text", "evaluate": "--split"}.get(main, "--")
    assert flag in result.stdout


def one_line(text):
    return " ".join(text.split())


@pytest.mark.parametrize("name", ["car", "clip", "llama", "ovoad"])
def test_help_of_training_lists_every_field_with_its_default_and_meaning(name):
    from vtjax.config import load_config_file, settings

    text = one_line(commands.run("-m", "vtjax.train", f"--config=configs/{name}.py:smoke", "--help").stdout)
    for setting in settings(load_config_file(f"{commands.ROOT}/configs/{name}.py:smoke")):
        value = ",".join(map(str, setting.value)) if isinstance(setting.value, tuple) else setting.value
        assert one_line(f"--{setting.path}: {setting.about} (default: {str(value)!r}, {setting.kind})") in text
    assert "--work_directory: Where the run lives" in text
    assert "--help also lists the fields" in commands.run("-m", "vtjax.train", "--help").stdout


def test_help_of_prediction_lists_the_method_s_arguments(trained):
    from vtjax import arguments, methods

    text = one_line(commands.run("-m", "vtjax.predict", f"--work_directory={trained}", "--help").stdout)
    for argument in arguments.arguments(methods.get("car").predict):
        assert f"--{argument.flag}: " in text and one_line(argument.about) in text
    assert "--top: Number of answers. (default: '10')" in text and "--which: Checkpoint" in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["--config is needed", "configs/car.py"]),
        (["--config=nowhere.py"], ["--config=nowhere.py: no file 'nowhere.py'"]),
        (["--config", "nowhere.py:smoke"], ["no file 'nowhere.py'"]),
        (["--config=configs/car.py:smok"], ["no variant 'smok'", "did you mean 'smoke'"]),
        ([SMOKE, "--config.optim.learning_rat=1"], ["--config.optim.learning_rat", "did you mean 'learning_rate'"]),
        ([SMOKE, "--config.method.loss.temperatur=1"], ["CarLossConfig has no field 'temperatur'", "'temperature'"]),
        ([SMOKE, "--config.trian.steps=1"], ["Experiment has no field 'trian'", "did you mean 'train'"]),
        ([SMOKE, "--config.train.steps=many"], ["--config.train.steps=many", "invalid literal for int"]),
        ([SMOKE, "--work_dir=x"], ["Unknown command line flag 'work_dir'"]),
        ([SMOKE, "--config.train.accumulate=3"], ["config.train.accumulate=3 does not divide batch_size=16"]),
    ],
)
def test_wrong_settings_of_training(arguments, words):
    commands.refused(commands.run("-m", "vtjax.train", *arguments), *words)


@pytest.mark.parametrize(
    "main, arguments, words",
    [
        ("evaluate", ["--work_directory=nowhere"], ["nowhere: no such work directory"]),
        ("predict", ["--work_directory=nowhere", "--text=x"], ["nowhere/config.json: no such file"]),
        ("predict", ["--work_directory", "nowhere"], ["nowhere/config.json: no such file"]),
        ("train", [SMOKE, "--config.method.data.source=nowhere"], ["nowhere: no file meta.json", "vtjax.prepare"]),
        ("train", [SMOKE, "--config.method.text.encoder=brt"], ["config.method.text.encoder='brt'", "'bert'"]),
        ("train", [SMOKE, "--config.mesh.tensor=3"], ["3 does not divide 1 devices"]),
        ("train", [SMOKE, "--config.method.data.world_train=0"], ["world"]),
    ],
)
def test_missing_and_impossible_things(main, arguments, words, tmp_path):
    """Those that are found only once something is read."""
    arguments = [a.replace("=configs", f"={commands.ROOT}/configs") for a in arguments]
    commands.refused(commands.run("-m", f"vtjax.{main}", *arguments, cwd=tmp_path), *words)


def test_a_damaged_config_file_of_a_run(tmp_path):
    (tmp_path / "config.json").write_text("{")
    for main in ("evaluate", "predict"):
        commands.refused(commands.run("-m", f"vtjax.{main}", f"--work_directory={tmp_path}"), "config.json:1: not JSON")


def test_overrides_reach_the_run_and_its_directory(tmp_path):
    """A prepared folder that is not there stops it after the configuration was written."""
    arguments = [
        f"--config={commands.ROOT}/configs/car.py:smoke", "--config.optim.learning_rate=0.25", "--config.seed=7",
        "--config.method.loss.filter=none", "--config.train.best=a,b", "--config.train.best=c",
        "--config.optim.betas=0.5,0.75", "--config.method.data.source=absent",
    ]  # fmt: skip
    commands.refused(commands.run("-m", "vtjax.train", *arguments, cwd=tmp_path), "absent: no file meta.json")
    written = json.loads((tmp_path / "runs" / "car-smoke" / "config.json").read_text())
    assert written["optim"]["learning_rate"] == 0.25 and written["seed"] == 7
    assert written["method"]["loss"]["filter"] == "none" and written["train"]["steps"] == 12
    assert written["train"]["best"] == ["a,b", "c"] and written["optim"]["betas"] == [0.5, 0.75]


def test_work_directories_by_default():
    assert command_line.default_work("configs/car.py") == "runs/car-demo"
    assert command_line.default_work("/a/b/car.py:smoke") == "runs/car-smoke"
    assert command_line.default_work("car.py:a b/c") == "runs/car-a_b_c"


@pytest.mark.parametrize(
    "error, status, words",
    [
        (VtjaxError("x is wrong"), 2, "error: x is wrong"),
        (OSError(28, "No space left on device"), 2, "error: the disk is full"),
        (OSError(122, "Disk quota exceeded"), 2, "error: the disk is full"),
    ],
)
def test_users_errors_and_full_disks_are_one_line(error, status, words, capsys):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as stopped:
        command_line.run(main, ["x"])
    said = capsys.readouterr().err
    assert stopped.value.code == status and words in said and len(said.splitlines()) == 1


def test_other_errors_are_bugs_and_keep_their_traceback():
    for error in (OSError(13, "Permission denied"), KeyError("a"), np.exceptions.AxisError("axis")):
        def main(_, error=error):
            raise error

        with pytest.raises(type(error)):
            command_line.run(main, ["x"])
    for status in (None, 0, 3):
        with pytest.raises(SystemExit) as stopped:
            command_line.run(lambda _, status=status: status, ["x"])
        assert stopped.value.code == status


TASKS = """
import asyncio, gc
from absl import logging
from vtjax import command_line

logging.use_absl_handler()
command_line.quiet_libraries()
source = "async def work():\\n    raise ValueError({!r})"


async def leave(path):
    scope = {}
    exec(compile(source.format("of " + path), path, "exec"), scope)
    task = asyncio.ensure_future(scope["work"]())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task


for path in ("site-packages/orbax/checkpoint/serialization.py", "vtjax/data/loader.py"):
    asyncio.run(leave(path))
    gc.collect()
"""


def test_tasks_that_orbax_leaves_behind_are_not_printed_and_others_are():
    """The writes beside one that failed; the failure itself is raised by the save."""
    said = commands.run("-c", TASKS).stderr
    assert "of vtjax/data/loader.py" in said and "Task exception was never retrieved" in said
    assert "orbax" not in said
