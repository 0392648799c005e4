"""Points and spans in time against loops over queries, and against figures of the published code."""

import math
import random

import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.evals import temporal_grounding as G


def queries(count=60, seed=0, videos=9):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        video, segments = int(rng.integers(videos)), []
        for _ in range(rng.integers(1, 4)):
            start = rng.uniform(0, 30)
            segments.append((start, start + rng.uniform(0.2, 9)))
        out.append(G.Query(f"v{video}", np.array(segments), 30 + video, f"task{video % 3}"))
    return out


def slow_hit(second, query, rule):
    for start, end in query.segments:
        low, high = math.floor(start), math.ceil(end)
        if rule == "inclusive" and second in range(low, high + 1):
            return True
        if rule == "half open" and second in range(low, high):
            return True
        if rule == "exact" and start <= second <= end:
            return True
    return False


def slow_chance(query, rule):
    return sum(slow_hit(second, query, rule) for second in range(query.seconds)) / query.seconds


@pytest.mark.parametrize("rule", G.RULES)
def test_pooled_recall_is_a_count_of_hits(rule):
    rows = queries()
    times = np.random.default_rng(1).integers(0, 30, len(rows))
    result = G.pooled_recall(times, rows, "grounding/steps/pooled", rule)
    hits = [slow_hit(int(t), q, rule) for t, q in zip(times, rows)]
    assert result.metrics["R@1"] == pytest.approx(100 * sum(hits) / len(hits)) and 0 < sum(hits) < len(hits)
    assert result.chance["R@1"] == pytest.approx(100 * sum(slow_chance(q, rule) for q in rows) / len(rows))
    low, high = result.interval["R@1"]
    assert low < result.metrics["R@1"] < high and result.items == len(rows) and result.notes[0] == "9 videos"


def test_the_rules_differ_at_the_ends_of_a_segment():
    query = G.Query("v", [[2.4, 4.6]], 10)
    hits = {rule: np.flatnonzero(query.hit(np.arange(10), rule)).tolist() for rule in G.RULES}
    assert hits == {"inclusive": [2, 3, 4, 5], "half open": [2, 3, 4], "exact": [3, 4]}


def test_perfect_and_impossible_times():
    rows = queries(20)
    right = G.pooled_recall([math.floor(q.segments[0, 0]) for q in rows], rows, "p")
    assert right.metrics["R@1"] == 100 and right.interval["R@1"][1] == 100
    assert G.pooled_recall([1000.0] * 20, rows, "p").metrics["R@1"] == 0
    assert G.pooled_recall([math.nan] * 20, rows, "p").metrics["R@1"] == 0


@pytest.mark.parametrize("size", [4, 1850])
def test_task_recall_is_pooled_in_tasks_and_averaged(size):
    rows = queries(90)
    times = np.random.default_rng(2).integers(0, 30, len(rows))
    result = G.task_recall(times, rows, "grounding/steps/tasks", sets=5, size=size)
    names = list(dict.fromkeys(q.video for q in rows))
    recalls, chances = [], []
    for s in range(5):
        chosen = random.Random(s).sample(names, min(size, len(names)))
        hits, guessed = {}, {}
        for t, q in zip(times, rows):
            if q.video in chosen:
                hits.setdefault(q.task, []).append(slow_hit(int(t), q, "inclusive"))
                guessed.setdefault(q.task, []).append(slow_chance(q, "inclusive"))
        recalls.append(sum(sum(h) / len(h) for h in hits.values()) / len(hits))
        chances.append(sum(sum(h) / len(h) for h in guessed.values()) / len(guessed))
    assert result.metrics["R@1"] == pytest.approx(100 * sum(recalls) / 5)
    assert result.chance["R@1"] == pytest.approx(100 * sum(chances) / 5)
    assert result.interval["R@1"][0] < result.metrics["R@1"] < result.interval["R@1"][1]
    assert any("random sets of 4 videos" in note for note in result.notes) == (size == 4)


def slow_overlap(predicted, true):
    if any(math.isnan(x) for x in predicted):
        return 0.0
    inner = max(0.0, min(predicted[1], true[1]) - max(predicted[0], true[0]))
    return inner / (max(predicted[1], true[1]) - min(predicted[0], true[0]))


@pytest.mark.parametrize("rounded", [True, False])
def test_span_recall_is_a_loop_over_queries(rounded):
    rng = np.random.default_rng(3)
    true, predicted = np.sort(rng.random((40, 2)), axis=1), np.sort(rng.random((40, 2)), axis=1)
    predicted[:12] = true[:12] + rng.normal(size=(12, 2)) * 0.03
    predicted[20], predicted[21] = np.nan, predicted[21, ::-1]
    tidy = (lambda x: round(x, 2)) if rounded else (lambda x: x)
    found = [tidy(slow_overlap(p, t)) for p, t in zip(predicted, true)]
    every = [tidy(slow_overlap(a, t)) for a in true for t in true]
    whole = [tidy(slow_overlap((0.0, 0.99), t)) for t in true]
    result = G.span_recall(predicted, true, [f"v{i // 3}" for i in range(40)], "grounding/x", rounded)
    for least in (0.3, 0.5, 0.7):
        name = f"R@1 IoU={least}"
        assert result.metrics[name] == pytest.approx(100 * np.mean([x >= least for x in found]))
        assert result.chance[name] == pytest.approx(100 * np.mean([x >= least for x in every]))
        assert f"{name} {100 * np.mean([x >= least for x in whole]):.2f}" in result.notes[1]
    assert result.metrics["mIoU"] == pytest.approx(100 * np.mean(found))
    assert result.chance["mIoU"] == pytest.approx(100 * np.mean(every))
    assert result.interval["mIoU"][0] < result.metrics["mIoU"] < result.interval["mIoU"][1]
    assert result.notes[0] == "14 videos" and "1 answers name no span" in result.notes[2]


def test_figures_of_the_published_example():
    """VTimeLLM's example of six answers, scored by its code."""
    answers = [(17, 34), (28, 71), (60, 99), (0, 17), (21, 71), (22, 43)]
    seconds = [(6.94, 69.08), (37.28, 43.49), (43.13, 55.55), (0, 5), (5, 12.2), (12.2, 17.56)]
    true = np.array(seconds) / np.array([[73.1]] * 3 + [[17.56]] * 3)
    predicted = np.array(answers) / 100
    assert np.round(G.overlaps(predicted, true), 2).tolist() == [0.2, 0.2, 0.4, 0.6, 0.82, 0.0]
    result = G.span_recall(predicted, true, ["a"] * 3 + ["b"] * 3, "grounding/example")
    expected = {"R@1 IoU=0.3": 50, "R@1 IoU=0.5": 100 / 3, "R@1 IoU=0.7": 100 / 6, "mIoU": 37}
    assert result.metrics == {name: pytest.approx(value) for name, value in expected.items()}


def test_chance_of_spans_does_not_depend_on_the_blocks(monkeypatch):
    spans = np.sort(np.random.default_rng(4).random((13, 2)), axis=1)
    whole = G.span_recall(spans, spans, ["v"] * 13, "p").chance
    monkeypatch.setattr(G, "_CELLS", 30)
    assert G.span_recall(spans, spans, ["v"] * 13, "p").chance == pytest.approx(whole)


def test_wrong_inputs():
    query = G.Query("v", [[1, 2]], 9)
    for match, call in {
        "segments .K, 2. and 1 second or more": lambda: G.Query("v", [], 9),
        "1 second or more": lambda: G.Query("v", [[1, 2]], 0),
        "v: a segment ends before it starts": lambda: G.Query("v", [[3, 2]], 9),
        "rule .*'inclusiv'.*inclusive": lambda: G.pooled_recall([1], [query], "p", "inclusiv"),
        "one time for each": lambda: G.pooled_recall([1, 2], [query], "p"),
        "1 or more queries": lambda: G.task_recall([], [], "p"),
        "spans .N, 2. of 1 queries": lambda: G.span_recall(np.zeros((2, 2)), np.zeros((2, 2)), ["v"], "p"),
    }.items():
        with pytest.raises(VtjaxError, match=match):
            call()
