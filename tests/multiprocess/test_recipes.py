"""Whole recipes, their stages and their evaluation, on two processes and on one."""

import json
import pathlib

import commands
import numpy as np
import pytest

# Rounding would decide which of two equal groups a frame is in, and the ends of a mask that is nearly flat.
OVOAD = [
    "--config.train.log_every=1", "--config.method.model.hard=False", "--config.method.model.gumbel=False",
    "--config.method.loss.mask_squash=sigmoid",
]  # fmt: skip


def losses(work: pathlib.Path, stage: str) -> list[float]:
    lines = map(json.loads, (work / stage / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["split"] == "train"]


def figures(work: pathlib.Path) -> dict[str, float]:
    results = json.loads((work / "results.json").read_text())
    return {f"{r['protocol']}/{name}": value for r in results for name, value in r["metrics"].items()}


@pytest.mark.slow
def test_two_processes_train_and_evaluate_ovoad_as_one_does(tmp_path):
    for name, start in (("one", ["-m", "vtjax.train"]), ("two", ["-m", "launch.local", "--", "vtjax.train"])):
        arguments = ["--config=configs/ovoad.py:smoke", f"--work_directory={tmp_path / name}", *OVOAD]
        done = commands.run(*start, *arguments, timeout=900)
        assert done.returncode == 0, done.stderr
    for stage, steps in (("pretrain", 2), ("train", 12)):
        one, two = (losses(tmp_path / name, stage) for name in ("one", "two"))
        assert len(one) == steps
        np.testing.assert_allclose(two, one, atol=1e-5)
    one, two = (figures(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one) > 100
    np.testing.assert_allclose(list(two.values()), list(one.values()), atol=0.05)
