"""Live scores against windowed ones, what comes later, how many streams there are, class lists, and wrong use."""

import jax
import jax.numpy as jnp
import live_model as small
import numpy as np
import pytest

import vtjax
from vtjax.config import Experiment, save_experiment
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.classes import named_classes
from vtjax.methods.ovoad.data import window_at
from vtjax.methods.ovoad.stream import LiveScorer, placed

CLASSES = ["cut", "pour", "open"]
FIELDS = ("scores", "group", "current", "clip")


@pytest.fixture(scope="module")
def model():
    return small.small_scorer(small.small_config(fusion__clip=0.5))


@pytest.fixture(scope="module")
def code_model():
    config = small.small_config(
        model__dntr="encoder_xattn", fusion__mode="code_mean", fusion__clip=1.0, fusion__background="mask",
        fusion__top=2, loss__mask_from="logits", loss__mask_squash="minmax",
    )  # fmt: skip
    return small.small_scorer(config)


@pytest.fixture(scope="module")
def long_model():
    return small.small_scorer(small.small_config(model__long=6, model__compress=True, fusion__clip=0.5))


def played(model, rows, classes=CLASSES, **options):
    live = LiveScorer(*model, classes, fps=4.0, **options)
    return [s for row in rows for s in live.push(row)]


def table(found, field="scores"):
    return np.stack([getattr(s, field) for s in found])


@pytest.mark.parametrize("which", ["model", "code_model", "long_model"])
def test_streaming_equals_windowed_evaluation(which, request):
    scorer, params = request.getfixturevalue(which)
    rows = small.features(45)
    found = played((scorer, params), rows)
    whole = scorer.video(params, rows, scorer.bank(params, named_classes(CLASSES, scorer.config)))
    assert len(found) == 45 and found[0].names == ("background", *CLASSES)
    np.testing.assert_allclose(table(found), whole.fused, atol=1e-5)
    for field in FIELDS[1:]:
        np.testing.assert_allclose(table(found, field), getattr(whole, field), atol=1e-5)
    # The mask is stretched to [0, 1], and with it the rounding of a window that is nearly flat.
    np.testing.assert_allclose([s.actionness for s in found], whole.actionness[:, -1], atol=2e-3)
    np.testing.assert_array_equal([s.binding for s in found], whole.binding[:, -1])
    assert np.ptp(whole.fused, axis=0).min() > 1e-3, "the scores do differ from frame to frame"
    np.testing.assert_allclose([s.time for s in found], (np.arange(45) + 0.5) / 4)


def test_what_comes_later_changes_nothing_before(model):
    rows = small.features(30)
    other = rows.copy()
    other[21:] = small.features(9, seed=5) * 3
    first, second = table(played(model, rows)), table(played(model, other))
    np.testing.assert_array_equal(first[:21], second[:21])
    assert (np.abs(first[21:] - second[21:]).max(axis=1) > 1e-4).all()


def test_frames_before_the_window_are_forgotten(model):
    window = small.window(model[0].config)
    rows = small.features(40)
    other = rows.copy()
    other[:10] += 1
    first, second = table(played(model, rows)), table(played(model, other))
    np.testing.assert_allclose(first[10 + window :], second[10 + window :], atol=1e-6)
    assert np.abs(first[9] - second[9]).max() > 1e-4


def test_one_and_thirty_two_streams_give_the_same(model):
    streams = [small.features(13 + i % 5, seed=i) for i in range(32)]
    live = LiveScorer(*model, CLASSES, fps=4.0, streams=32)
    found = [[] for _ in streams]
    for step in range(17):
        for score in live.push_all([rows[step] if step < len(rows) else None for rows in streams]):
            found[score.stream].append(score)
    for i, rows in enumerate(streams):
        alone = played(model, rows)
        assert [s.step for s in found[i]] == list(range(len(rows)))
        for field in FIELDS:
            np.testing.assert_allclose(table(found[i], field), table(alone, field), atol=1e-5)


def test_streams_of_different_rates_side_by_side(model):
    rng = np.random.default_rng(0)
    slow, fast = rng.normal(size=(12, small.WIDTH)), rng.normal(size=(120, small.WIDTH))
    live = LiveScorer(*model, CLASSES, fps=[3.0, 30.0], streams=2, start=0.0)
    found = [[], []]
    for i in range(120):
        for s in live.push_all([slow[i // 10] if i % 10 == 0 else None, fast[i]]):
            found[s.stream].append(s)
    for s in live.finish():
        found[s.stream].append(s)
    for number, rows, rate, count in ((0, slow, 3.0, 15), (1, fast, 30.0, 16)):
        alone = LiveScorer(*model, CLASSES, fps=rate, start=0.0)
        scores = [s for row in rows for s in alone.push(row)] + alone.finish()
        assert [s.time for s in found[number]] == [s.time for s in scores] and len(scores) == count
        np.testing.assert_allclose(table(found[number]), table(scores), atol=1e-5)


def test_frames_are_encoded_on_the_way(model):
    scorer, params = model
    frames = np.random.default_rng(3).integers(0, 256, (24, 40, 56, 3), np.uint8)
    found = played(model, frames)
    encoded = scorer.encoder.features(frames)
    np.testing.assert_allclose(table(found), table(played(model, encoded)), atol=1e-5)


def test_class_lists_are_exchanged_without_compiling(model):
    scorer, params = model
    rows = small.features(30)
    live = LiveScorer(scorer, params, CLASSES, fps=4.0)
    before = [s for row in rows[:12] for s in live.push(row)]
    sizes = lambda: [f._cache_size() for f in (live._step.score, live._step.advance, scorer._texts)]
    compiled = sizes()
    live.set_classes(["jump", "run", "cut", "close", "push"])
    after = [s for row in rows[12:20] for s in live.push(row)]
    live.set_classes(["pour"])
    last = [s for row in rows[20:] for s in live.push(row)]
    assert sizes() == compiled and min(compiled) > 0
    np.testing.assert_array_equal(table(before), table(played(model, rows))[:12])
    renewed = played(model, rows, ["jump", "run", "cut", "close", "push"])
    np.testing.assert_allclose(table(after), table(renewed)[12:20], atol=1e-6)
    assert last[0].names == ("background", "pour") == live.classes
    np.testing.assert_allclose(table(last), table(played(model, rows, ["pour"]))[20:], atol=1e-6)


def test_padding_of_the_class_list_changes_nothing(model):
    rows = small.features(14)
    np.testing.assert_allclose(table(played(model, rows, capacity=128)), table(played(model, rows)), atol=1e-6)
    live = LiveScorer(*model, [f"class {i}" for i in range(70)], fps=4.0)
    assert live.push(rows[0])[0].scores.shape == (71,)


def test_weights_kept_in_bfloat16_are_what_the_modules_make_of_them():
    """Bit for bit: only matrices that the modules convert themselves are converted beforehand."""
    config = small.small_config(fusion__clip=0.5)
    scorer, params = small.small_scorer(config, dtype=jnp.bfloat16)
    kept = placed(params, jnp.bfloat16)
    kinds = {str(x.dtype) for x in jax.tree.leaves(kept)}
    assert kinds == {"bfloat16", "float32"} and kept["current_projection"]["kernel"].dtype == "float32"
    classes = named_classes(CLASSES, config)
    pairs = [window_at(small.features(20), t, scorer.objective.window) for t in range(20)]
    batch = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
    score = jax.jit(scorer.score)
    banks = [(weights, scorer.bank(weights, classes)) for weights in (params, kept)]
    results = [jax.device_get((bank.joint, bank.current, score(weights, *batch, bank))) for weights, bank in banks]
    jax.tree.map(np.testing.assert_array_equal, *results)
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    own, encode = scorer.encoder.params["vision"], jax.jit(scorer.encoder.apply)
    np.testing.assert_array_equal(encode(own, frames), encode(placed(own, jnp.bfloat16), frames))


def test_reset_and_finish_begin_anew(model):
    rows = small.features(12)
    live = LiveScorer(*model, CLASSES, fps=4.0)
    first = [s for row in rows for s in live.push(row)]
    live.reset()
    again = [s for row in rows for s in live.push(row)]
    live.finish()
    third = [s for row in rows for s in live.push(row)]
    for other in (again, third):
        np.testing.assert_array_equal(table(first), table(other))
        assert [s.step for s in other] == list(range(12)) and other[0].time == 0.125


def test_the_answer_as_json_and_the_best_class(model):
    score = played(model, small.features(3))[-1]
    record = score.to_json()
    assert record["scores"].keys() == {"background", *CLASSES} and record["time"] == 0.625
    name, value = score.best()
    assert value == max(score.scores) and score.names[int(np.argmax(score.scores))] == name


def test_wrong_use_is_told(model):
    scorer, params = model
    make = lambda classes=CLASSES, **options: LiveScorer(scorer, params, classes, **options)
    with pytest.raises(VtjaxError, match="class list is empty"):
        make([])
    with pytest.raises(VtjaxError, match="'cut' is listed twice"):
        make(["cut", "pour", "Cut"])
    with pytest.raises(VtjaxError, match="empty name"):
        make(["cut", " "])
    with pytest.raises(VtjaxError, match="a list of names"):
        make("cut")
    with pytest.raises(VtjaxError, match="streams=0"):
        make(streams=0)
    with pytest.raises(VtjaxError, match="2 rates for 3 streams"):
        make(streams=3, fps=[4.0, 5.0])
    live = make()
    row = small.features(1)[0]
    with pytest.raises(VtjaxError, match="frame rate is unknown"):
        live.push(row)
    with pytest.raises(VtjaxError, match="features of 20 values, but the model takes 16"):
        live.push(np.zeros(20, np.float32), 0.0)
    with pytest.raises(VtjaxError, match="not finite"):
        live.push(np.full(16, np.nan, np.float32), 0.0)
    with pytest.raises(VtjaxError, match=r"uint8 \[height, width, 3\]"):
        live.push(np.zeros((8, 8, 3), np.float32), 0.0)
    with pytest.raises(VtjaxError, match=r"features float \[16\]"):
        live.push(np.zeros(16, np.int64), 0.0)
    live.push(row, 3.0)
    with pytest.raises(VtjaxError, match="must not go back"):
        live.push(row, 2.9)
    with pytest.raises(VtjaxError, match="stream 1 of 1"):
        live.push(row, 4.0, stream=1)
    with pytest.raises(VtjaxError, match="2 items and 1 times for 1 streams"):
        live.push_all([row, row], [4.0])
    with pytest.raises(VtjaxError, match="class list is empty"):
        live.set_classes([])
    assert live.classes == ("background", *CLASSES), "a refused list leaves the old one"


def test_a_frame_at_fault_leaves_the_other_streams_as_they_were(model):
    """Nothing is taken from any stream, so that the same call can be made again without it."""
    rows = small.features(12)
    live = LiveScorer(*model, CLASSES, streams=2, start=0.0)
    found = []
    for i, row in enumerate(rows):
        if i == 6:
            for bad, when in ((np.zeros(3, np.float32), 1.5), (row, 0.1)):
                with pytest.raises(VtjaxError):
                    live.push_all([row, bad], [i / 4, when])
        found += [s for s in live.push_all([row, row], [i / 4, i / 4]) if s.stream == 0]
    alone = LiveScorer(*model, CLASSES, start=0.0)
    expected = [s for i, row in enumerate(rows) for s in alone.push(row, i / 4)]
    np.testing.assert_allclose(table(found), table(expected), atol=1e-5)


def test_a_run_opens_its_streams(model, monkeypatch, tmp_path):
    """`vtjax.load(work).stream(...)`, as DESIGN.md promises."""
    scorer, params = model
    asked = []
    monkeypatch.setattr("vtjax.methods.ovoad.embed.open_scorer", lambda *arguments: asked.append(arguments) or scorer)
    save_experiment(Experiment(name="ovoad", method=scorer.config), tmp_path / "config.json")
    run = vtjax.load(tmp_path)
    run.params = params
    live = run.stream(CLASSES, fps=4.0, streams=2, dtype="bfloat16")
    assert live.streams == 2 and live.classes == ("background", *CLASSES)
    assert asked[0][1:] == (tmp_path, jnp.dtype("bfloat16"))
    assert len(run.stream(fps=4.0).push(small.features(1)[0])[0].names) == 16  # the world's own classes


def test_frames_need_an_encoder():
    model = small.small_scorer(encoder=False)
    live = LiveScorer(*model, CLASSES, fps=4.0)
    assert live.push(small.features(1)[0])[0].clip is None
    with pytest.raises(VtjaxError, match="no image encoder"):
        live.push(np.zeros((8, 8, 3), np.uint8))
