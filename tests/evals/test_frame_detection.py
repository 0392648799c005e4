"""The named protocols on THUMOS14's real targets, pooling, held-out classes, base-to-novel, stages."""

import numpy as np
import pytest

from vtjax.data.readers import thumos14
from vtjax.errors import VtjaxError
from vtjax.evals.average_precision import average_precision
from vtjax.evals.frame_detection import (
    base_to_novel,
    detect,
    grouped_results,
    restrict,
    stage_precision,
)  # fmt: skip
from vtjax.evals.frame_protocols import PROTOCOLS, FrameProtocol, pool, protocol
from vtjax.evals.frame_targets import FrameTargets
from vtjax.methods.ovoad import frame_splits

POSITIVES = [
    584, 4522, 1230, 5312, 3669, 1417, 1138, 2750, 827, 1295,
    8249, 4322, 5534, 5318, 13860, 4232, 761, 1634, 2475, 2091,
]  # fmt: skip


@pytest.fixture(scope="module")
def targets(shared_data):
    found = thumos14.frame_targets(shared_data / "detection/thumos14")
    return {video: own for video, own in found.items() if "test" in video}


def random_scores(targets, strength=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return {v: strength * t.targets + rng.random(t.targets.shape) for v, t in targets.items()}


def slow_rows(targets, ambiguous, name):
    """Sheet 8.2, row by row."""
    out = []
    for t in range(len(targets)):
        if name == "lstr":
            keep = not targets[t][ambiguous]
        elif name == "oadtr":
            keep = 63 <= t <= len(targets) - 10 and int(np.argmax(targets[t])) != ambiguous
        else:
            keep = 31 <= t <= len(targets) - 10 and not any(targets[u][ambiguous] for u in range(t - 31, t + 1))
            keep = keep and not (name == "ovoad-fg" and targets[t][0])
        out.append(keep)
    return out


def test_frame_counts_of_the_protocols_are_the_sheets(targets):
    counts = {
        name: sum(int(p.rows(t.targets, 21).sum()) for t in targets.values()) for name, p in PROTOCOLS.items()
    }
    assert counts["lstr"] == 221588
    assert (counts["oadtr"], counts["ovoad"]) == (206375, 210480)
    foreground = 0
    for own in targets.values():
        rows = PROTOCOLS["ovoad"].rows(own.targets, 21)
        foreground += int(own.targets[rows][:, 1:21].sum())
    assert counts["ovoad-fg"] == foreground
    # OV-OAD's window of 32 with its long memory of 64 frames left in: the first scored frame moves by 64.
    left_in = 0
    for own in targets.values():
        rows = PROTOCOLS["ovoad"].rows(own.targets, 21)
        left_in += int(rows[95:].sum())
    assert left_in == 197311


def test_positives_and_chance_are_the_sheets(targets):
    scores = random_scores(targets)
    frames = pool(scores, targets, protocol("lstr"))
    assert frames.truth.sum(axis=0).tolist() == POSITIVES and frames.classes == thumos14.CLASSES[1:21]
    assert 100 * frames.truth.mean() == pytest.approx(1.61, abs=0.005)
    frames = pool(scores, targets, protocol("ovoad"))
    assert 100 * frames.truth.mean() == pytest.approx(1.65, abs=0.005)


def test_figures_of_random_and_of_weak_scores(targets):
    random = detect(random_scores(targets, 0.0), targets, "ovoad", resamples=2).result()
    assert random.metrics["mcAP"] == pytest.approx(50.0, abs=0.1)
    assert random.metrics["mAP"] == pytest.approx(1.65, abs=0.02)
    assert random.chance["mAP"] == pytest.approx(1.65, abs=0.02) and random.chance["mcAP"] == 50
    weak = detect(random_scores(targets), targets, "ovoad", resamples=20).result()
    assert weak.items == 210480 and weak.protocol == "detection/ovoad/all classes"
    assert weak.metrics["mAP"] == pytest.approx(33.5, abs=0.6) and weak.metrics["mcAP"] == pytest.approx(78.1, abs=0.4)
    grouped = protocol("ovoad", ties=("grouped", "grouped"))
    assert detect(random_scores(targets), targets, grouped, resamples=2).result().metrics == pytest.approx(weak.metrics)
    for metric in ("mAP", "mcAP"):
        low, high = weak.interval[metric]
        assert low < weak.metrics[metric] < high


@pytest.mark.parametrize("name", ["lstr", "oadtr", "ovoad", "ovoad-fg"])
def test_rows_against_a_loop(name):
    rng = np.random.default_rng(1)
    for length in (5, 31, 32, 41, 42, 80, 150):
        table = np.zeros((length, 5), int)
        at = 0
        while at < length:  # runs, so that whole windows without an ambiguous frame exist
            run = int(rng.integers(8, 60))
            table[at : at + run, rng.choice(5, p=[0.4, 0.2, 0.2, 0.15, 0.05])] = 1
            at += run
        assert PROTOCOLS[name].rows(table, 4).tolist() == slow_rows(table, 4, name)


def test_foreground_only_lifts_map_and_leaves_cap(targets):
    """Sheet 8.2: why figures of ovoad-fg cannot be compared with those of all frames."""
    scores = random_scores(targets, 0.06, seed=2)
    every = detect(scores, targets, "ovoad", resamples=2).result().metrics
    foreground = detect(scores, targets, "ovoad-fg", resamples=2).result().metrics
    assert foreground["mAP"] > 1.4 * every["mAP"]
    assert foreground["mcAP"] == pytest.approx(every["mcAP"], abs=1.0)


CLASSES = ("background", "a", "b", "c", "ambiguous")


def small(videos=4, length=60, seed=0):
    rng = np.random.default_rng(seed)
    out = {}
    for v in range(videos):
        label = np.repeat(rng.choice(5, length // 10, p=[0.35, 0.2, 0.2, 0.2, 0.05]), 10)
        out[f"v{v}"] = FrameTargets(np.eye(5, dtype=np.uint8)[label], CLASSES, 4.0, 4)
    return out


def test_held_out_classes_are_reported_apart():
    targets = small()
    scores = random_scores(targets, 0.5)
    found = detect(scores, targets, "lstr", resamples=30)
    results = {r.protocol: r for r in grouped_results(found, ["c"], "fused/")}
    assert list(results) == [
        "detection/lstr/fused/all classes", "detection/lstr/fused/seen classes",
        "detection/lstr/fused/held-out classes",
    ]  # fmt: skip
    truth = np.concatenate([t.targets for t in targets.values()])
    table = np.concatenate([scores[v] for v in targets])
    keep = truth[:, 4] == 0
    ap = [average_precision(table[keep, c], truth[keep, c], ties="grouped") for c in (1, 2, 3)]
    figures = [r.metrics["mAP"] for r in results.values()]
    assert figures == pytest.approx([100 * np.mean(ap), 100 * np.mean(ap[:2]), 100 * ap[2]])
    assert [r["class"] for r in found.per_class()] == ["a", "b", "c"]
    assert len(grouped_results(found, [])) == 1


def test_columns_are_found_by_name():
    targets = small()
    scores = random_scores(targets, 0.5)
    whole = detect(scores, targets, "lstr", resamples=2).result().metrics
    turned = {v: s[:, [3, 0, 2, 1]] for v, s in scores.items()}
    named = detect(turned, targets, "lstr", ("c", "background", "b", "a"), resamples=2).result().metrics
    assert named == pytest.approx(whole)
    without = detect({v: s[:, :4] for v, s in scores.items()}, targets, "lstr", resamples=2).result().metrics
    assert without == whole
    some = detect({v: s[:, [0, 2]] for v, s in scores.items()}, targets, "lstr", ("background", "b"), resamples=2)
    assert some.pool.classes == ("b",)


def test_lengths_that_differ_are_cut_and_told():
    targets = small()
    scores = random_scores(targets)
    exact = detect({v: s[:57] for v, s in scores.items()}, targets, "lstr", resamples=2)
    assert not any("differ" in n for n in exact.result().notes) and exact.table.frames < 4 * 58
    more = detect({v: s[:50] if v == "v1" else s for v, s in scores.items()}, targets, "lstr", resamples=2)
    assert any("v1 (50 and 60)" in n for n in more.result().notes)
    long = detect(scores, targets, "ovoad", resamples=2)
    assert long.table.frames <= 4 * 20
    with pytest.raises(VtjaxError, match="too short"):
        detect(scores, targets, FrameProtocol("x", window=90), resamples=2)


def test_wrong_use():
    targets = small()
    scores = random_scores(targets)
    with pytest.raises(VtjaxError, match="did you mean 'oadtr'"):
        protocol("oadt")
    with pytest.raises(VtjaxError, match="1 of 4 videos have no scores: v2"):
        detect({v: s for v, s in scores.items() if v != "v2"}, targets, "lstr")
    with pytest.raises(VtjaxError, match=r"\[frames, 5 classes\]"):
        detect({v: s[:, :2] for v, s in scores.items()}, targets, "lstr")
    with pytest.raises(VtjaxError, match="'a' is listed twice"):
        detect(scores, targets, "lstr", ("background", "a", "a", "b", "c"))
    with pytest.raises(VtjaxError, match="'aa': did you mean 'a'"):
        detect(scores, targets, "lstr", ("background", "aa"))
    with pytest.raises(VtjaxError, match="no video has targets"):
        detect(scores, {}, "lstr")


def test_restricting_turns_seen_classes_into_background():
    own = small(1)["v0"]
    cut = restrict(own, ["b"])
    assert cut.classes == ("background", "b", "ambiguous") and cut.ambiguous == 2
    np.testing.assert_array_equal(cut.targets[:, 1], own.targets[:, 2])
    np.testing.assert_array_equal(cut.targets[:, 0], own.targets[:, [0, 1, 3]].max(axis=1))
    with pytest.raises(VtjaxError, match="not among the classes"):
        restrict(own, ["z"])


def test_base_to_novel_is_the_mean_over_its_splits():
    targets = small()
    scores = random_scores(targets, 0.5)
    asked = []

    def score(listed):
        asked.append(listed)
        return {v: s[:, [CLASSES.index(c) for c in listed]] for v, s in scores.items()}

    (result,) = base_to_novel(score, targets, {"75/25": (("a",), ("c", "b"))}, "lstr", resamples=20)
    assert asked == [("background", "a"), ("background", "b", "c")]
    truth = np.concatenate([t.targets for t in targets.values()])
    table = np.concatenate([scores[v] for v in targets])
    keep = truth[:, 4] == 0
    a, b, c = (average_precision(table[keep, i], truth[keep, i], ties="grouped") for i in (1, 2, 3))
    assert result.metrics["mAP"] == pytest.approx(100 * np.mean([a, (b + c) / 2]))
    assert result.protocol == "detection/lstr/base-to-novel 75/25" and "2 splits" in result.notes[0]


def test_replicates_without_a_positive_are_left_out():
    """Only one of four videos shows anything, so that many draws hold no action at all."""
    rows = lambda label: FrameTargets(np.eye(5, dtype=np.uint8)[label], CLASSES, 4.0, 4)
    targets = {f"v{i}": rows(np.zeros(60, int)) for i in range(3)}
    targets["v3"] = rows(np.repeat([0, 1, 2, 3, 1, 2], 10))
    scores = random_scores(targets, 0.5)
    for resamples in (1, 30):
        for seed in range(4):
            result = detect(scores, targets, "lstr", resamples=resamples, seed=seed).result()
            assert all(0 <= v <= 100 for v in result.interval["mAP"])
    score = lambda listed: {v: s[:, [CLASSES.index(c) for c in listed]] for v, s in scores.items()}
    (result,) = base_to_novel(score, targets, {"x": (("a",), ("b",))}, "lstr", resamples=5)
    assert 0 <= result.interval["mAP"][0] <= result.interval["mAP"][1] <= 100


def test_the_splits_are_of_thumos_and_ten_each():
    assert {k: [len(s) for s in v] for k, v in frame_splits.THUMOS14.items()} == {"75/25": [5] * 10, "50/50": [10] * 10}
    for lists in frame_splits.THUMOS14.values():
        assert all(set(s) <= set(thumos14.CLASSES[1:21]) and len(set(s)) == len(s) for s in lists)
        assert len(set(lists)) == 10


def test_stages_of_a_run_that_is_found_late():
    label = np.zeros(80, int)
    label[10:30] = label[50:70] = 1
    own = FrameTargets(np.eye(2, dtype=np.uint8)[label], ("background", "a"), 4.0)
    scores = np.zeros((80, 2))
    scores[20:30, 1] = scores[60:70, 1] = 1  # only the second half of every run
    found = detect({"v": scores}, {"v": own}, "lstr", resamples=2)
    stages = stage_precision(found)
    assert stages[5:] == pytest.approx(np.ones(5)) and (stages[:5] < 0.6).all()
    short = FrameTargets(np.eye(2, dtype=np.uint8)[[0, 1, 0, 0]], ("background", "a"), 4.0)
    found = detect({"v": np.eye(2)[[0, 1, 0, 0]]}, {"v": short}, "lstr", resamples=2)
    assert np.isnan(stage_precision(found)[1:]).all() and stage_precision(found)[0] == 1
    assert any("one video" in n for n in found.result().notes)
