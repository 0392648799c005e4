"""A run on published sets in their own layouts: prompts, columns, LSTR's prediction file, base-to-novel splits."""

import dataclasses
import pickle

import live_model as small
import numpy as np
import pytest

from vtjax.data.readers import thumos14
from vtjax.errors import VtjaxError
from vtjax.evals.frame_detection import detect, restrict
from vtjax.evals.frame_targets import FrameTargets
from vtjax.methods.ovoad import frame_sets, published
from vtjax.methods.ovoad.classes import named_classes
from vtjax.methods.ovoad.evaluate import full_results


@pytest.fixture(scope="module")
def model():
    return small.small_scorer(small.small_config(fusion__clip=0.5))


@pytest.fixture(scope="module")
def found(shared_data):
    """Three real test videos, cut to 90 rows around their first action."""
    whole = frame_sets.thumos14(shared_data / "detection/thumos14")
    targets = {}
    for video in ("video_test_0000324", "video_test_0001207", "video_test_0000793"):
        own = whole.targets[video]
        first = max(int(np.argmax(own.targets[:, 0] == 0)) - 20, 0)
        targets[video] = FrameTargets(own.targets[first : first + 90], own.classes, own.fps, own.ambiguous)
    return dataclasses.replace(whole, targets=targets)


@pytest.fixture
def run(model, found, tmp_path):
    """Features of the set's videos."""
    (tmp_path / "features").mkdir()
    for i, (video, own) in enumerate(found.targets.items()):
        rows = small.features(len(own.targets) - (i == 1), seed=i).astype(np.float16)
        np.save(tmp_path / f"features/{video}.npy", rows)
    return tmp_path / "features"


def test_classes_have_the_sets_names_and_spoken_prompts(model, found):
    own = published.class_set(found, model[0])
    assert own.names == thumos14.CLASSES[:21] and not own.held_out.any()
    assert own.prompts[1] == ("A photo of action baseball pitch.",) and own.prompts[4][0].endswith("clean and jerk.")


def test_scores_results_and_lstrs_file(model, run, found, tmp_path):
    scorer, params = model
    scored = published.score_set(scorer, params, found, run, every=False)
    bank = scorer.bank(params, published.class_set(found, scorer))
    video = "video_test_0001207"
    whole = scorer.video(params, np.load(tmp_path / f"features/{video}.npy"), bank)
    np.testing.assert_allclose(scored.systems["fused"][video], whole.fused, atol=1e-5)
    results = {r.protocol: r for r in full_results(scorer, params, scored)}
    kept = sum(int((t.targets[:, 21] == 0).sum()) for t in found.targets.values())
    assert results["detection/lstr/fused/all classes"].items in (kept, kept - 1)
    assert "detection/oadtr/fused/all classes" in results
    path = published.write_predictions(tmp_path / "p.pkl", *published.prediction_tables(scored))
    tree = pickle.loads(path.read_bytes())  # as LSTR's tools do
    scores, targets = tree["perframe_pred_scores"], tree["perframe_gt_targets"]
    assert scores[video].shape == targets[video].shape == (89, 22) and not scores[video][:, 21].any()
    again = {v: FrameTargets(t.astype(np.uint8), thumos14.CLASSES, 5.0, 21) for v, t in targets.items()}
    assert detect(scores, again, "lstr", resamples=1).result().metrics == pytest.approx(
        results["detection/lstr/fused/all classes"].metrics
    )


def test_base_to_novel_scores_with_the_unseen_classes_alone(model, run, found, tmp_path):
    scorer, params = model
    scored = published.score_set(scorer, params, found, run, every=False)
    rows = np.concatenate([t.targets for t in found.targets.values()])
    shown = [n for c, n in enumerate(thumos14.CLASSES) if 0 < c < 21 and rows[:, c].any()]
    splits = {"some": ((shown[0], "Diving"), (shown[0], shown[1]))}
    (result,) = published.novel_results(scorer, params, scored, splits, "lstr")
    figures = []
    for unseen in splits["some"]:
        own = published.class_set(found, scorer)
        listed = (own.names[0], *(n for n in own.names[1:] if n in unseen))
        classes = named_classes([frame_sets.phrases(["b", n])[1] for n in listed[1:]], scorer.config)
        bank = scorer.bank(params, classes)
        tables = {v.key: scorer.video(params, v.features, bank).fused for v in scored.videos}
        cut = {k: restrict(t, unseen) for k, t in found.targets.items()}
        figures.append(detect(tables, cut, "lstr", listed, resamples=1).result().metrics["mAP"])
    assert result.metrics["mAP"] == pytest.approx(np.mean(figures), abs=1e-3)


def test_wrong_use(model, found, run, tmp_path):
    with pytest.raises(VtjaxError, match="or an entry of --info"):
        published.open_set("thumos", "x")
    np.save(tmp_path / "features/video_test_0000324.npy", small.features(9, width=20))
    with pytest.raises(VtjaxError, match=r"float \[rows, 16\] is expected"):
        published.score_set(*model, found, run)
    (tmp_path / "features/video_test_0000324.npy").write_bytes(b"x")
    with pytest.raises(VtjaxError, match="not an array"):
        published.score_set(*model, found, run)
    (tmp_path / "features/video_test_0000324.npy").unlink()
    with pytest.raises(VtjaxError, match="no features of 1 of 3 videos: video_test_0000324"):
        published.score_set(*model, found, run)


def test_every_kind_of_set_opens(shared_data, tmp_path):
    assert len(published.open_set("thumos14", str(shared_data / "detection/thumos14"), split="val").targets) == 200
    (tmp_path / "target_perframe").mkdir()
    np.save(tmp_path / "target_perframe/24_ep4.npy", np.eye(31)[[0, 1]])
    info = str(shared_data / "detection/testra_data_info.json")
    assert published.open_set("tvseries", str(tmp_path), info).metric == "mcAP"
