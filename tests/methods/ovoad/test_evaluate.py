"""Systems and results of an evaluation, baselines against loops, held-out classes apart, and the report of a run."""

import dataclasses
import json
import types

import live_model as small
import numpy as np
import pytest
from page_reader import PageReader

from vtjax.config import Experiment
from vtjax.errors import MissingSplit, VtjaxError
from vtjax.evals.average_precision import average_precision
from vtjax.evals.embed import unit_rows
from vtjax.methods.ovoad import baselines, data, embed, evaluate
from vtjax.methods.ovoad.classes import ClassSet
from vtjax.methods.ovoad.page import page, picked

NAMES = ("background", "cut", "pour", "open")
CLASSES = ClassSet(NAMES, tuple((f"a photo of action {n}",) for n in NAMES), np.array([False, False, False, True]))


def videos_of(count=5, length=44, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for v in range(count):
        parts, at = [], 0
        while at < length:
            run, label = int(rng.integers(5, 11)), int(rng.integers(0, 4))
            if label:
                parts.append((at, min(at + run, length), (NAMES[label],), label))
            at += run
        rows = rng.standard_normal((length, small.WIDTH)).astype(np.float32)
        pictures = rng.integers(0, 256, (length, 32, 32, 3), np.uint8)
        found.append(data.feature_video(f"v{v}", rows, parts, 4.0, lambda p=pictures: p))
    return found


@pytest.fixture(scope="module")
def model():
    return small.small_scorer(small.small_config(fusion__clip=0.5))


@pytest.fixture(scope="module")
def scored(model):
    return evaluate.score_videos(*model, videos_of(), CLASSES)


def test_every_system_has_a_score_of_every_frame(model, scored):
    assert set(scored.systems) == {
        "fused", "clustering alone", "current frame alone", "encoder alone",
        *(f"fusion {m}{c}" for m in ("paper", "code_mean", "calibrated") for c in ("", " with encoder")),
        "fusion calibrated, masked",
    }  # fmt: skip
    for tables in scored.systems.values():
        assert {k: t.shape for k, t in tables.items()} == {f"v{i}": (44, 4) for i in range(5)}


def test_the_systems_are_what_the_scorer_says(model, scored):
    scorer, params = model
    whole = scorer.video(params, scored.videos[1].features, scorer.bank(params, CLASSES))
    for system, field in (
        ("fused", whole.fused), ("clustering alone", whole.group), ("current frame alone", whole.current),
        ("encoder alone", whole.clip),
    ):  # fmt: skip
        np.testing.assert_allclose(scored.systems[system]["v1"], field, atol=1e-5)
    equal = (whole.group + whole.current + whole.clip) / 3
    np.testing.assert_allclose(scored.systems["fusion calibrated with encoder"]["v1"], equal, atol=1e-5)
    np.testing.assert_allclose(
        scored.systems["fusion calibrated"]["v1"], (whole.group + whole.current) / 2, atol=1e-5
    )
    masked = scored.systems["fusion calibrated, masked"]["v1"]
    np.testing.assert_allclose(masked[:, 0], whole.fused[:, 0], atol=1e-5)
    np.testing.assert_allclose(masked[:, 1:], whole.fused[:, 1:] * scored.also["v1"]["actionness"][:, None], atol=1e-5)
    np.testing.assert_array_equal(scored.also["v1"]["binding"], whole.binding[:, -1])


def test_results_name_protocol_system_and_classes(model, scored):
    results = {r.protocol: r for r in evaluate.full_results(*model, scored)}
    for protocol in ("lstr", "ovoad", "ovoad-fg"):
        for group in ("all classes", "seen classes", "held-out classes"):
            assert f"detection/{protocol}/fused/{group}" in results
    assert not any("/oadtr/" in name for name in results)  # 44 frames hold no window of 64
    assert any("oadtr" in note for note in results["detection/lstr/fused/all classes"].notes)
    truth = np.concatenate([v.targets(4) for v in scored.videos])
    table = np.concatenate([scored.systems["fused"][v.key] for v in scored.videos])
    ap = [average_precision(table[:, c], truth[:, c], ties="grouped") for c in (1, 2, 3)]
    figures = [results[f"detection/lstr/fused/{g} classes"].metrics["mAP"] for g in ("all", "seen", "held-out")]
    assert figures == pytest.approx([100 * np.mean(ap), 100 * np.mean(ap[:2]), 100 * ap[2]])
    over = results["gain/lstr/over zero-shot single frame/all classes"]
    baseline = results["detection/lstr/zero-shot single frame/all classes"]
    assert over.metrics["mAP gain"] == pytest.approx(figures[0] - baseline.metrics["mAP"])
    low, high = over.interval["mAP gain"]
    assert low <= over.metrics["mAP gain"] <= high and "as published" in baseline.notes[-1]


def test_while_training_only_the_answer(model):
    scorer, params = model
    results = evaluate.quick_results(scorer, videos_of(2), CLASSES, params)
    assert [r.protocol for r in results] == [
        f"detection/lstr/fused/{g} classes" for g in ("all", "seen", "held-out")
    ]  # fmt: skip


def test_the_form_of_a_baseline_is_the_best_on_other_videos(model):
    scorer, params = model
    other = videos_of(3, seed=5)
    chosen = evaluate.choose_forms(scorer, params, other, CLASSES)
    systems = evaluate.zero_shot_systems(scorer, params, other, CLASSES)
    truth = np.concatenate([v.targets(4) for v in other])
    for name, by_form in systems.items():
        figures = {}
        for form, tables in by_form.items():
            table = np.concatenate([tables[v.key] for v in other])
            figures[form] = np.mean([average_precision(table[:, c], truth[:, c], ties="grouped") for c in (1, 2, 3)])
        assert figures[chosen[name]] == max(figures.values())
    assert len(systems["zero-shot mean of 8 frames"]) == 6


def softmax(row):
    exact = [np.exp(v - max(row)) for v in row]
    return [v / sum(exact) for v in exact]


def test_zero_shot_scores_against_loops(model):
    scorer, params = model
    rows = small.features(13, seed=4)
    bank, encoder = scorer.bank(params, CLASSES), scorer.encoder
    found = baselines.zero_shot_scores(rows, encoder.projection, bank, 4, encoder.scale, 5)
    texts = np.asarray(bank.clip)
    embeddings = [r @ encoder.projection / np.linalg.norm(r @ encoder.projection) for r in rows]
    for t in range(13):
        near, window = embeddings[max(t - 7, 0) : t + 1], embeddings[max(t - 4, 0) : t + 1]
        single = [float(embeddings[t] @ c) for c in texts]
        for name, frames in (("zero-shot mean of 8 frames", near), ("zero-shot mean of the window", window)):
            mean = np.mean(frames, axis=0)
            cosines = [float(mean @ c / np.linalg.norm(mean)) for c in texts]
            np.testing.assert_allclose(found[name]["embeddings, cosines"][t], cosines, atol=1e-5)
            probabilities = np.mean([softmax([encoder.scale * float(f @ c) for c in texts]) for f in frames], axis=0)
            np.testing.assert_allclose(found[name]["probabilities, softmax"][t], probabilities, atol=1e-5)
        one = found["zero-shot single frame"]
        np.testing.assert_allclose(one["centred cosines"][t], single - np.mean(single), atol=1e-5)
        np.testing.assert_allclose(one["cosines"][t], single, atol=1e-5)
        np.testing.assert_allclose(one["softmax"][t], softmax([encoder.scale * s for s in single]), atol=1e-5)
        over = softmax([encoder.scale * s for s in single[1:]])
        np.testing.assert_allclose(one["softmax over actions"][t], [0, *over], atol=1e-5)


class Clips:
    """An encoder whose clip of three frames is a sum with other weights for each."""

    clip_frames = 3

    def clips(self, embeddings):
        return unit_rows(np.einsum("ntd,t->nd", embeddings, [1.0, -2.0, 4.0]))


def test_clips_of_the_last_frames_against_a_loop(model):
    scorer, params = model
    rows = small.features(9, seed=4)
    bank, encoder = scorer.bank(params, CLASSES), scorer.encoder
    assert "zero-shot clip of the last frames" not in baselines.zero_shot_scores(
        rows, encoder.projection, bank, 4, 1.0, 5, encoder.encoder
    ), "a published encoder knows frames alone"
    found = baselines.zero_shot_scores(rows, encoder.projection, bank, 4, encoder.scale, 5, Clips())
    embeddings = [r @ encoder.projection / np.linalg.norm(r @ encoder.projection) for r in rows]
    for t in range(9):
        clip = embeddings[max(t - 4, 0)] - 2 * embeddings[max(t - 2, 0)] + 4 * embeddings[t]
        cosines = [float(clip @ c / np.linalg.norm(clip)) for c in np.asarray(bank.clip)]
        np.testing.assert_allclose(found["zero-shot clip of the last frames"]["cosines"][t], cosines, atol=1e-5)


def test_the_cluster_holds_the_frames_like_the_current_one():
    a, b = np.eye(4)[0], np.eye(4)[1]
    rng = np.random.default_rng(0)
    kinds = [a, a, b, a, b, b]
    rows = unit_rows(np.stack([k + 0.05 * rng.standard_normal(4) for k in kinds]))
    found = baselines.cluster_mean(rows, 5)
    for t, kind in enumerate(kinds):
        same = [u for u in range(max(t - 4, 0), t + 1) if kinds[u] is kind]
        if len(same) <= t:  # two clusters: with one kind alone the window is split as it likes
            np.testing.assert_allclose(found[t], unit_rows(rows[same].mean(axis=0)), atol=1e-6)
        assert found[t] @ kind > 0.95


def test_without_an_encoder_there_are_no_baselines():
    scorer, params = small.small_scorer(encoder=False)
    scored = evaluate.score_videos(scorer, params, videos_of(2), CLASSES)
    results = evaluate.full_results(scorer, params, scored)
    assert not any("zero-shot" in r.protocol or "encoder" in r.protocol for r in results)
    with pytest.raises(VtjaxError, match="no video"):
        evaluate.score_videos(scorer, params, [], CLASSES)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    scorer, params = model
    bare = [data.feature_video("b", small.features(20), [], 4.0)]
    splits = {"everything": videos_of(), "val": videos_of(3, seed=5), "bare": bare}

    def open_split(experiment, work, split, encoder):
        if split not in splits:
            raise MissingSplit(f"no split {split!r}")
        return splits[split], CLASSES, "f"

    monkeypatch.setattr(embed, "open_scorer", lambda experiment, work, dtype: scorer)
    monkeypatch.setattr(data, "open_split", open_split)
    (tmp_path / "train").mkdir()
    lines = [json.dumps({"step": s, "loss": 3.0 / s}) for s in range(1, 20)]
    (tmp_path / "train/metrics.jsonl").write_text("\n".join(lines))
    scorer.config.data.test_split = "everything"
    experiment = Experiment(name="ovoad", method=scorer.config)
    opened = embed.Opened(experiment, tmp_path)
    return types.SimpleNamespace(experiment=experiment, work=tmp_path, params=params, model=opened)


def test_a_run_is_evaluated_and_reported(run):
    results = evaluate.evaluate(run)
    single = next(r for r in results if r.protocol == "detection/lstr/zero-shot single frame/all classes")
    assert "the best of 4 forms on val" in single.notes[-1]
    written = PageReader(page(run, results).html())
    sections = ("Live", "The model by every protocol", "Against the encoder alone", "Class by class", "How early")
    for word in (*sections, "held-out"):
        assert word in written.text, word
    assert written.tags.count("image") > 5 and "http" not in written.text
    labels = ("mAP, all classes", "mAP, classes held out", "Above single frames", "Above 8-frame means")
    places = [written.text.index(label) for label in labels]
    assert places == sorted(places) and "Calibrated mAP" not in written.text, "four tiles"
    scored = evaluate.open_scored(run, every=False)
    keys = picked(scored)
    assert len(keys) == 3 and scored.targets[keys[0]].targets[:, 3].any()
    with pytest.raises(VtjaxError, match="no split 'tset'"):
        evaluate.evaluate(run, split="tset")
    with pytest.raises(VtjaxError, match="annotated with classes"):
        evaluate.evaluate(run, split="bare")


def test_what_a_protocol_cannot_score_is_noted_and_all_else_is_said(model, scored):
    """Only frames that are not there, or show nothing, are left out; any other failure is the caller's to see."""
    early = [data.feature_video("v", small.features(80), [(3, 9, ("cut",), 1)], 4.0)]
    results = {r.protocol: r for r in evaluate.full_results(*model, evaluate.score_videos(*model, early, CLASSES))}
    notes = results["detection/lstr/fused/all classes"].notes
    assert any(note.startswith("no frame that oadtr") and note.endswith("shows a class") for note in notes)
    broken = dataclasses.replace(scored, systems={"fused": dict(list(scored.systems["fused"].items())[1:])})
    with pytest.raises(VtjaxError, match="1 of 5 videos have no scores: v0"):
        evaluate.full_results(*model, broken)


def test_baselines_have_the_published_form_without_a_split_to_choose_on(run, monkeypatch):
    assert evaluate.baseline_forms(run)[1] == "val"
    for name in ("nowhere", "bare"):
        run.experiment.method.data.val_split = name
        assert evaluate.baseline_forms(run) == (None, "")

    def damaged(*arguments):
        raise VtjaxError("a shard is damaged")

    monkeypatch.setattr(data, "open_split", damaged)
    run.experiment.method.data.val_split = "damaged"
    with pytest.raises(VtjaxError, match="a shard is damaged"):
        evaluate.baseline_forms(run)
    run.experiment.method.data.val_split = "val"
