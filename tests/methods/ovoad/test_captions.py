"""Captions of windows by both recipes, verb and noun prompts, classes."""

import collections
import pickle

import numpy as np
import pytest

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.captions import FILLER, NOTHING, CaptionRecipe, VerbPrompts
from vtjax.methods.ovoad.classes import named_classes, world_classes
from vtjax.methods.ovoad.config import TRAIN_TEMPLATES, OvoadConfig, OvoadDataConfig, OvoadLossConfig
from vtjax.worlds import workshop_verbs as vocabulary

SPANS = (("a hand pushes the red block to the right",), ("someone opens the pot",), ("qwerty",))


def frames(*runs):
    return np.concatenate([np.full(n, span) for span, n in runs])


def recipe(captions, extra=2):
    return CaptionRecipe(OvoadConfig(data=OvoadDataConfig(captions=captions), loss=OvoadLossConfig(extra=extra)))


def filled(text, name):
    return any(text == t.replace("{}", name) for t in TRAIN_TEMPLATES)


@pytest.mark.parametrize(
    "sentence, phrase",
    [
        ("a hand pushes the red block to the right", "pushing block"),
        ("someone opens the pot", "opening pot"),
        ("a video of the hand picking up a yellow cup", "picking cup"),
        ("stir what is in the green bowl", "stirring"),
        ("a person pours the blue jug into the red cup", "pouring jug"),
        ("a box", None),
        ("the sky is blue", None),
        ("a man is dancing", "dancing"),
        ("two people carry a heavy wooden table across the room", "carrying table"),
    ],
)
def test_verb_and_object(sentence, phrase):
    assert VerbPrompts().phrase(sentence) == phrase


def test_a_list_of_verbs_of_your_own(tmp_path):
    path = tmp_path / "verbs.txt"
    path.write_text("zorch\n")
    assert VerbPrompts(str(path)).phrase("he zorches the lamp") == "zorching lamp"
    assert VerbPrompts(str(path)).phrase("he opens the lamp") is None
    with pytest.raises(VtjaxError, match="data.verbs"):
        VerbPrompts(str(tmp_path / "none.txt"))


def test_sentences_most_frequent_first_and_distinct():
    run = recipe("sentences")
    texts, current = run(SPANS, frames((0, 3), (-1, 2), (1, 5), (2, 4)), np.random.default_rng(0))
    assert texts == [SPANS[1][0], SPANS[0][0], SPANS[2][0]]
    assert current == "qwerty"


def test_sentences_are_filled_up_with_prompts_of_their_verbs():
    run = recipe("sentences")
    seen = collections.Counter()
    for seed in range(40):
        texts, current = run(SPANS, frames((0, 5), (1, 2), (-1, 1)), np.random.default_rng(seed))
        assert texts[:2] == [SPANS[0][0], SPANS[1][0]] and current == NOTHING
        assert filled(texts[2], "pushing block") or filled(texts[2], "opening pot")
        seen[filled(texts[2], "opening pot")] += 1
    assert min(seen[True], seen[False]) > 8


def test_sentences_without_a_known_verb_or_without_any_caption():
    run = recipe("sentences")
    found = {run(SPANS, frames((2, 4)), np.random.default_rng(seed))[0][1] for seed in range(30)}
    assert found == {"qwerty", FILLER}
    texts, current = run(SPANS, frames((-1, 4)), np.random.default_rng(0))
    assert texts == [NOTHING] * 3 and current == NOTHING


def test_labels_follow_activitynet():
    names = (("long jump",), ("pole_vault",))
    run = recipe("labels")
    window = frames((0, 3), (1, 5), (-1, 2), (0, 1))
    extra = collections.Counter()
    for seed in range(60):
        texts, current = run(names, window, np.random.default_rng(seed))
        assert filled(texts[0], "pole vault") and filled(current, "long jump")
        for text in texts[1:]:
            extra[next((name for name in ("pole vault", "long jump") if filled(text, name)), "?")] += 1
    assert extra["?"] == 0 and 35 < extra["long jump"] < 85, "classes of the window alike, however long they last"
    texts, current = run(names, frames((-1, 4)), np.random.default_rng(0))
    assert all(filled(text, "background") for text in (*texts, current))


def test_one_wording_of_a_span_a_draw():
    spans = (("one", "two", "three"),)
    run = recipe("sentences", extra=0)
    found = {tuple(run(spans, frames((0, 9)), np.random.default_rng(seed))[0]) for seed in range(30)}
    assert found == {("one",), ("two",), ("three",)}
    assert all(run(spans, frames((0, 3)), np.random.default_rng(s))[1] in spans[0] for s in range(5))


def test_recipes_can_go_to_other_processes():
    run = pickle.loads(pickle.dumps(recipe("sentences")))
    window = frames((0, 3), (1, 5))
    args = lambda: (SPANS, window, np.random.default_rng(3))
    assert run(*args()) == recipe("sentences")(*args())


def test_named_classes():
    config = OvoadConfig()
    classes = named_classes(["Long_Jump", "pole vault"], config)
    assert classes.names == ("background", "Long_Jump", "pole vault")
    assert classes.prompts[1] == ("A photo of action Long Jump.",) and classes.prompts[0] == (NOTHING, FILLER)
    config.data.captions = "labels"
    assert named_classes(["a"], config).prompts[0] == ("A photo of action background.",)
    assert named_classes(["Background", "a"], config).names == ("background", "a")
    for names, message in (
        ([], "empty"), (["a", " "], "class 2 of 2 has an empty name"), (["run", "Run"], "'run' is listed twice"),
        (["background"], "alone"),
    ):  # fmt: skip
        with pytest.raises(VtjaxError, match=message):
            named_classes(names, config)


def test_world_classes_name_no_held_out_pair():
    classes = world_classes(OvoadConfig())
    assert classes.names[1:] == vocabulary.VERB_NAMES and not classes.held_out[0]
    held_out = [n for n, h in zip(classes.names, classes.held_out, strict=True) if h]
    assert held_out == [v.name for v in vocabulary.VERBS if v.novel]
    for verb, prompts in zip(classes.names[1:], classes.prompts[1:], strict=True):
        program = vocabulary.VERB[verb].program
        word = vocabulary.HELD_OUT[program]
        assert len(prompts) >= 3
        if program == "pour":
            assert not any(w in p for w in vocabulary.KINDS[word] for p in prompts)
