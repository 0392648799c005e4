"""A trained run from Python."""

import json
import shutil

import numpy as np
import pytest

import vtjax
from vtjax.errors import VtjaxError
from vtjax.sharding.partition import flatten
from vtjax.training import recipe


def test_a_run_opens_with_its_settings_and_loads_parameters_when_needed(trained, monkeypatch):
    run = vtjax.load(trained)
    assert isinstance(run, vtjax.Run) and run.experiment.name == "car" and run.experiment.train.steps == 12
    last, sixth = (flatten(vtjax.load(str(trained), which).params) for which in ("last", "6"))
    assert all(type(v) is np.ndarray and v.dtype == np.float32 for v in last.values())
    assert any(not np.array_equal(last[k], sixth[k]) for k in last)
    monkeypatch.setattr(recipe, "stage_params", None)
    vtjax.load(trained)  # reads no array


def test_results_and_report_lie_in_the_work_directory(trained):
    names = {p.name for p in trained.iterdir()}
    assert {"config.json", "results.json", "report.html", "orders-test.json", "assets", "train"} <= names
    assert {r["protocol"] for r in json.loads((trained / "results.json").read_text())} >= {"retrieval/all/t2m", "car/2-way/event-to-event"}
    page = (trained / "report.html").read_text()
    assert "<svg" in page and "event-to-event" in page and "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda work: shutil.rmtree(work), "no such work directory; `python -m vtjax.train` makes one"),
        (lambda work: (work / "config.json").unlink(), "config.json: no such file"),
        (lambda work: (work / "config.json").write_text("{}"), "not the configuration of a run"),
    ],
)
def test_what_is_no_run(trained, tmp_path, change, message):
    work = tmp_path / "w"
    work.mkdir()
    shutil.copy(trained / "config.json", work / "config.json")
    change(work)
    with pytest.raises(VtjaxError, match=message):
        vtjax.load(work)


def test_a_run_without_checkpoints_or_assets(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "w", ignore=shutil.ignore_patterns("checkpoints", "std.npy"))
    with pytest.raises(VtjaxError, match=r"checkpoints: no complete checkpoint; there are \[\]"):
        _ = vtjax.load(tmp_path / "w").params
    with pytest.raises(VtjaxError, match="std.npy: missing; vtjax.train writes it"):
        vtjax.load(tmp_path / "w").predict(text="a person walks", motions="unused")
    with pytest.raises(VtjaxError, match="no best checkpoint of 'retrieval/all/t2m/R@1' was kept"):
        _ = vtjax.load(trained, "retrieval/all/t2m/R@1").params


def test_training_from_python_goes_on_where_the_directory_stands(trained, tmp_path):
    """Stages that are finished are not trained again, so this takes no compilation."""
    shutil.copytree(trained, tmp_path / "w")
    experiment = vtjax.load(trained).experiment
    experiment.method.data.cache = str(trained.parent / "cache")
    run = vtjax.fit(experiment, tmp_path / "w", allow_config_change=True)
    original = flatten(vtjax.load(trained).params)
    for name, value in flatten(run.params).items():
        np.testing.assert_array_equal(value, original[name])


def test_a_method_that_scores_nothing_live_says_so(trained):
    with pytest.raises(VtjaxError, match="'car' scores nothing live; methods that do: ovoad"):
        vtjax.load(trained).stream()
