import json
import math

import numpy as np
import pytest

from vtjax.errors import Problems, VtjaxError
from vtjax.report import curves


def write(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_read_is_liberal(tmp_path):
    problems = Problems()
    read = curves.read_metrics(
        write(
            tmp_path / "metrics.jsonl",
            [
                {"step": 20, "split": "train", "time": 1.0, "loss": 2.0, "text": "x", "flag": True},
                {"step": 10, "loss": 3, "aux": {"kl": 0.5, "deep": {"a": 1}}},
                {"step": 20, "split": "train", "loss": 1.5},  # the step was run again
                "",
                {"step": 30, "split": "train", "loss": None},
                {"step": 30, "split": "eval", "retrieval/all/t2m/R@1": 12.5},
                {"loss": 1},
                "[1]",
                '{"step": 40, "lo',
            ],
        ),
        problems,
    )
    assert set(read) == {"train", "eval"}
    assert set(read["train"]) == {"loss", "aux/kl", "aux/deep/a"}
    steps, values = read["train"]["loss"]
    assert steps.tolist() == [10, 20, 30] and values[:2].tolist() == [3, 1.5] and math.isnan(values[2])
    assert len(problems) == 3 and problems.items[-1].where.endswith(":9")


def test_missing_file(tmp_path):
    with pytest.raises(VtjaxError, match="cannot be read"):
        curves.read_metrics(tmp_path / "absent.jsonl")


def series(n):
    return np.arange(n), np.linspace(1, 2, n)


def test_panels():
    drawn = curves.panels(
        {
            "train": {"data_wait": series(5), "kl": series(5), "once": series(1), "loss": series(5)},
            "eval": {"retrieval/all/t2m/R@1": series(3), "retrieval/all/m2t/R@1": series(3), "a/R@2": series(3)},
            "eval/val": {"car/2-way/CAR": series(2), "loss": series(2)},
        }
    )
    assert list(drawn) == ["loss", "R@1", "CAR", "evaluation loss", "kl", "data_wait"]
    assert [label for label, _, _ in drawn["R@1"]] == ["retrieval/all/t2m", "retrieval/all/m2t"]
    assert drawn["CAR"][0][0] == "val/car/2-way"


def test_draw_is_an_svg_and_the_same_each_time():
    data = {"train": {"loss": series(40), "a$b_c": series(40)}, "eval": {"car/2-way/CAR": series(3)}}
    drawing, left_out = curves.draw_curves(data)
    assert drawing.lstrip().startswith("<?xml") and "<svg" in drawing and not left_out
    assert drawing == curves.draw_curves(data)[0]
    other = {**data, "eval": {"car/2-way/CAR": (np.arange(3), np.array([1.0, 5.0, 2.0]))}}
    assert drawing != curves.draw_curves(other)[0]


def test_draw_names_what_it_leaves_out():
    data = {"train": {f"m{i:02d}": series(3) for i in range(14)}, "eval": {"x/CAR": series(2)}}
    assert curves.draw_curves(data)[1] == ["m11", "m12", "m13"]
    assert curves.draw_curves({"train": {"loss": series(1)}}) == ("", [])
    assert curves.draw_curves({}) == ("", [])


def test_running_mean_against_a_loop():
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    values[[3, 40]] = np.nan
    smooth = curves.running_mean(values, share=0.05)
    for i in (0, 3, 17, 59):
        weights = [math.exp(-0.5 * ((j - i) / 3) ** 2) if abs(j - i) <= 12 else 0.0 for j in range(60)]
        pairs = [(w, v) for w, v in zip(weights, values) if math.isfinite(v)]
        assert smooth[i] == pytest.approx(sum(w * v for w, v in pairs) / sum(w for w, _ in pairs))
    np.testing.assert_allclose(curves.running_mean(np.full(30, 2.5)), 2.5)
    np.testing.assert_allclose(curves.running_mean(np.array([1.0, 1.0])), 1.0)
