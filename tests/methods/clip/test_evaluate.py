"""Zero-shot and order figures against loops over clips, and the pictures' numbers."""

import functools
import types

import numpy as np
import pytest

from vtjax.methods.clip import data, evaluate, page
from vtjax.methods.clip.embed import Gallery
from vtjax.text.class_prompts import ClassSet, named_classes

N, C, D = 30, 6, 5
CLASSES = ClassSet(
    names=tuple("abcdef"),
    prompts=(("p",),) * C,
    groups=("x", "x", "y", "y", "z", "z"),
    backwards=np.array([1, 0, -1, -1, 5, 4]),
    held_out=np.array([False, True, False, True, False, True]),
)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@functools.cache
def scores():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, C, N)
    rows = [
        data.Row(i, str(i), None, (f"text {i % 20}",), (f"turned {i % 20}",) if i % 2 else (), int(label))
        for i, label in enumerate(labels)
    ]
    classes = unit(rng.normal(size=(C, D)))
    videos = unit(classes[labels] + 0.8 * rng.normal(size=(N, D)))
    rows[3] = data.Row(3, "3", None, ("text 3",), ("turned 3",), -1)
    return Gallery(data.Rows(None, rows), videos, unit(rng.normal(size=(N, D)))), classes


def embedder():
    def texts(params, names):
        seeds = [sum(map(ord, name)) for name in names]
        return unit(np.array([np.random.default_rng(seed).normal(size=D) for seed in seeds]))

    return types.SimpleNamespace(texts=texts)


def by_protocol(results):
    return {r.protocol: r for r in results}


@pytest.mark.parametrize("name, held_out", [("unseen renderings", False), ("held-out pairs", True)])
def test_zero_shot_equals_a_loop_over_clips(name, held_out):
    s, classes = scores()
    found = by_protocol(evaluate.zero_shot(s, CLASSES, classes))
    chosen = [i for i in range(N) if s.labels[i] >= 0 and CLASSES.held_out[s.labels[i]] == held_out]
    hits = {"all classes": [], "these classes": [], "verbs": []}
    top5 = []
    for i in chosen:
        cosines = [float(s.videos[i] @ classes[c]) for c in range(C)]
        order = sorted(range(C), key=lambda c: -cosines[c])
        hits["all classes"].append(order[0] == s.labels[i])
        top5.append(s.labels[i] in order[:5])
        these = [c for c in order if CLASSES.held_out[c] == held_out]
        hits["these classes"].append(these[0] == s.labels[i])
        hits["verbs"].append(CLASSES.groups[order[0]] == CLASSES.groups[s.labels[i]])
    for what, right in hits.items():
        result = found[f"zero-shot/{name}/{what}"]
        assert result.metrics["top-1"] == pytest.approx(100 * np.mean(right)) and result.items == len(chosen)
        low, high = result.interval["top-1"]
        assert low <= result.metrics["top-1"] <= high
    result = found[f"zero-shot/{name}/all classes"]
    assert result.metrics["top-5"] == pytest.approx(100 * np.mean(top5))
    assert result.chance == {"top-1": pytest.approx(100 / 6), "top-5": pytest.approx(500 / 6)}
    assert found[f"zero-shot/{name}/these classes"].chance["top-1"] == pytest.approx(100 / 3)
    assert 0 < np.mean(hits["all classes"]) < 1


def test_classes_without_a_held_out_part_are_reported_together():
    s, classes = scores()
    (result,) = evaluate.zero_shot(s, named_classes("abcdef", ("{}",)), classes)
    assert result.protocol == "zero-shot/all clips/all classes" and result.items == N - 1


def test_order_equals_a_loop_over_clips():
    (s, classes), e = scores(), embedder()
    found = by_protocol(evaluate.order_results(e, {}, s, CLASSES, classes))
    for name, held_out in (("unseen renderings", False), ("held-out pairs", True)):
        right = {"classes": [], "captions": [], "videos": []}
        for i, row in enumerate(s.rows.rows):
            if row.label < 0 or CLASSES.held_out[row.label] != held_out:
                continue
            other = CLASSES.backwards[row.label]
            if other >= 0:
                right["classes"].append(s.videos[i] @ classes[row.label] > s.videos[i] @ classes[other])
            if row.backwards:
                own, turned = e.texts({}, [row.texts[0], row.backwards[0]])
                right["captions"].append(s.videos[i] @ own > s.videos[i] @ turned)
                right["videos"].append(s.videos[i] @ own > s.backwards[i] @ own)
        for what, values in right.items():
            result = found[f"order/{name}/{what}"]
            assert result.metrics["accuracy"] == pytest.approx(100 * np.mean(values)), what
            assert result.items == len(values) and result.chance["accuracy"] == 50


def test_retrieval_is_named_after_videos_and_counts_equal_captions():
    s, _ = scores()
    found = by_protocol(evaluate.retrieval_results(embedder(), {}, s))
    assert set(found) == {f"retrieval/{p}/{d}" for p in ("all", "threshold") for d in ("t2v", "v2t")}
    texts = [row.texts[0] for row in s.rows.rows]
    table = embedder().texts({}, texts) @ s.videos.T
    best = [max(table[i, j] for j in range(N) if texts[j] == texts[i]) for i in range(N)]
    ranks = [sum(table[i] > best[i]) for i in range(N)]
    assert found["retrieval/threshold/t2v"].metrics["R@5"] == pytest.approx(100 * np.mean(np.less(ranks, 5)), abs=0.01)
    same = Gallery(data.Rows(None, [data.Row(0, "0", None, ("one",))] * 3), s.videos[:3], s.videos[:3])
    assert evaluate.retrieval_results(embedder(), {}, same) == []


def test_similarity_matrix_is_the_mean_over_a_class_s_clips():
    s, classes = scores()
    table, shown = page.similarity_matrix(s.videos @ classes.T, s.labels)
    for row, c in enumerate(shown):
        mine = [s.videos[i] for i in range(N) if s.labels[i] == c]
        np.testing.assert_allclose(table[row], np.mean([[v @ k for k in classes] for v in mine], axis=0), atol=1e-6)
