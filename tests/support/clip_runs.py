"""One tiny run on the workshop world, trained once for all tests of the method."""

import dataclasses
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny():
    """tiny(variant): its experiment at the smallest sizes that still have every part."""
    from vtjax.config import load_config_file
    from vtjax.encoders.clip_config import TextSizes, VisionSizes

    def make(variant):
        experiment = load_config_file(f"{ROOT}/configs/clip.py:{variant}")
        method = experiment.method
        method.model.vision, method.model.text = VisionSizes(32, 16, 16, 1, 2, 32), TextSizes(16, 1, 2, 32)
        method.model.embed_dim, method.model.frames, method.model.temporal_layers = 16, 2, 1
        method.data.world_train, method.data.world_test, method.data.val_size = 10, 8, 4
        experiment.optim.warmup_steps = 1
        experiment.train = dataclasses.replace(
            experiment.train, steps=2, batch_size=8, eval_every=0, checkpoint_every=2
        )
        return experiment

    return make


@pytest.fixture(scope="session")
def world_run(tiny, tmp_path_factory):
    """Its towers are scanned and its frames squashed, which tests of either need."""
    from vtjax.runs import Run, run_experiment

    experiment = tiny("smoke")
    experiment.method.model.scan, experiment.method.data.resize = True, "squash"
    work = tmp_path_factory.mktemp("clip") / "run"
    outcome = run_experiment(experiment, work)
    assert outcome.finished and outcome.step == 2
    return Run(work)
