"""A method that another package brings by an entry point: trained, evaluated, used, planned and reported by the mains."""

import json

import commands
import pytest

OUTSIDE = commands.ROOT / "tests" / "support" / "outside"


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    path = f"{OUTSIDE}:{commands.ROOT}"

    def run(name, *arguments):
        return commands.run("-m", f"vtjax.{name}", *arguments, cwd=folder, timeout=300, PYTHONPATH=path)

    run.folder = folder
    result = run("train", f"--config={OUTSIDE}/toy.py", "--work_directory=run")
    assert result.returncode == 0, result.stderr
    run.said = result.stdout
    return run


def test_it_is_small():
    assert len((OUTSIDE / "toy_method.py").read_text().splitlines()) < 100


def test_it_trains_and_leaves_a_report(main):
    assert "sides/all" in main.said and "top-1" in main.said
    page = (main.folder / "run" / "report.html").read_text()
    assert "Right side" in page and "Training" in page
    losses = [json.loads(line).get("loss") for line in (main.folder / "run/train/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_it_is_evaluated_and_used(main):
    done = main("evaluate", "--work_directory=run")
    assert done.returncode == 0 and "sides/all" in done.stdout, done.stderr
    done = main("predict", "--work_directory=run", "--point=3,4")
    assert done.returncode == 0 and "side 1:" in done.stdout, done.stderr
    assert json.loads((main.folder / "run" / "prediction.json").read_text())["shares"][1] > 0.9
    assert (main.folder / "run" / "prediction.csv").read_text().startswith("side,share\n0,")
    assert "Numbers with commas between." in main("predict", "--work_directory=run", "--help").stdout


def test_it_is_planned_and_timed(main):
    done = main("plan", f"--config={OUTSIDE}/toy.py", "--topology=cpu:4")
    assert done.returncode == 0 and "cpu" in done.stdout, done.stderr
    done = main("bench", f"--config={OUTSIDE}/toy.py", "--steps=2")
    assert done.returncode == 0 and "examples_per_second" in done.stdout, done.stderr


def test_settings_are_checked(main):
    done = main("train", f"--config={OUTSIDE}/toy.py", "--config.method.width=0", "--work_directory=other")
    commands.refused(done, "config.method.width=0: must be positive")
    text = main("train", f"--config={OUTSIDE}/toy.py", "--help").stdout
    assert "--config.method.points: to learn from; must be positive" in text
