"""Splits, captions and reversal pairs of the workshop: what is held out, what words name, what order alone tells."""

import itertools
import re

import numpy as np
import pytest

from vtjax.worlds import workshop_captions as language
from vtjax.worlds import workshop_verbs as vocabulary
from vtjax.worlds.workshop import Settings, Workshop
from vtjax.worlds.workshop_narration import LEFT_OUT, SPOKEN
from vtjax.worlds.workshop_verbs import KINDS, SPLITS, TOOLS, VERB, VERBS, held_out

STILL = Settings(drift=0, noise=0, pendulum=False, distractors=3)


def shown(split, count=40):
    """(verb, kinds of the roles) of every action in clips, streams and tasks of a split."""
    world = Workshop(split=split, size=32, settings=Settings(stream_seconds=12))
    for index in range(count):
        action, entities = world.clip_text(index)
        yield "clip", action.verb, tuple(entities[o].kind for o in action.objects)
        text = world.task_text(index)
        for s in text.segments:
            yield "task", s.verb, tuple(text.entities[o].kind for o in s.objects)
    for index in range(4):
        stream = world.stream(index)
        for s in stream.segments:
            yield "stream", s.verb, tuple(stream.entities[o].kind for o in s.objects)


@pytest.mark.parametrize("split", ["train", "val", "test", "pretrain"])
def test_seen_splits_never_show_what_is_held_out(split):
    for where, verb, kinds in shown(split):
        assert not held_out(verb, kinds), (where, verb, kinds)
        assert split == "pretrain" or not VERB[verb].novel


def test_zero_shot_and_novel_splits_show_only_that():
    for where, verb, kinds in shown("zero_shot"):
        assert not VERB[verb].novel and (where == "task" or held_out(verb, kinds))
    for where, verb, _ in shown("novel"):
        assert where == "task" or VERB[verb].novel
    assert set(Workshop(split="novel").tasks).isdisjoint(Workshop(split="train").tasks)


def test_every_word_of_a_held_out_pair_is_seen_in_training():
    train = {(v.name, k) for v in VERBS for k in vocabulary.combinations(SPLITS["train"], v.name)}
    zero = {(v.name, k) for v in VERBS for k in vocabulary.combinations(SPLITS["zero_shot"], v.name)}
    assert train and zero and not train & zero
    assert {v for v, _ in zero} <= {v for v, _ in train}
    assert {k for _, kinds in zero for k in kinds} <= {k for _, kinds in train for k in kinds} == set(KINDS)


def test_verbs_of_a_pair_lack_the_same_objects():
    for split, verb in itertools.product(SPLITS.values(), VERBS):
        mine, theirs = (set(vocabulary.combinations(split, name)) for name in (verb.name, verb.reverse))
        assert mine == ({k[::-1] for k in theirs} if verb.name == "pour" else theirs)


def text_only_control(split):
    """What can be guessed about a trimmed clip's verb from the objects that its caption names, without the video.

    Exact, by enumeration of what `Workshop.clip` draws from: a verb evenly, then one of its combinations evenly.

    Returns:
      {"chance": most frequent verb, "accuracy": best guess from the kinds in the order the caption names them,
       "pair_accuracy": best guess between a caption and its reversed caption, "posterior": {kinds: f64 [verbs]}}.
    """
    chosen = SPLITS[split]
    verbs = [v.name for v in VERBS if vocabulary.combinations(chosen, v.name)]
    joint = {}
    for verb in verbs:
        options = vocabulary.combinations(chosen, verb)
        for kinds in options:
            joint.setdefault(kinds, np.zeros(len(VERBS)))[vocabulary.LABEL[verb]] += 1 / (len(verbs) * len(options))
    pair_right = pair_total = 0.0
    for kinds, mass in joint.items():
        for verb in verbs:
            if not VERB[verb].order_sensitive:
                continue
            other = joint.get(kinds[::-1] if verb == "pour" else kinds, np.zeros(len(VERBS)))
            mine, theirs = mass[vocabulary.LABEL[verb]], other[vocabulary.LABEL[VERB[verb].reverse]]
            pair_total += mine
            pair_right += mine if mine > theirs else mine / 2 if mine == theirs else 0.0
    marginal = sum(joint.values())
    return {
        "chance": float(np.max(marginal)),
        "accuracy": float(sum(mass.max() for mass in joint.values())),
        "pair_accuracy": float(pair_right / pair_total) if pair_total else float("nan"),
        "posterior": {kinds: mass / mass.sum() for kinds, mass in joint.items()},
    }


@pytest.mark.parametrize("split", SPLITS)
def test_text_only_control_is_what_sampling_gives(split):
    control = text_only_control(split)
    assert control["pair_accuracy"] == pytest.approx(0.5)
    assert control["chance"] <= control["accuracy"] < 0.75
    world, right, pairs, total = Workshop(split=split), 0, 0, 600
    for index in range(total):
        action, entities = world.clip_text(index)
        posterior = control["posterior"][tuple(entities[o].kind for o in action.objects)]
        assert posterior[action.label] > 0
        right += posterior.argmax() == action.label
        pairs += VERB[action.verb].order_sensitive and VERB[action.verb].backwards
    assert right / total == pytest.approx(control["accuracy"], abs=0.07)


def test_verbs_and_colours_are_drawn_evenly():
    world = Workshop(split="everything")
    drawn = [world.clip_text(i) for i in range(1500)]
    verbs = np.bincount([a.label for a, _ in drawn], minlength=len(VERBS)) / len(drawn)
    assert np.abs(verbs - 1 / len(VERBS)).max() < 0.03
    colours = [e[1].colour for _, e in drawn]
    assert np.abs(np.array([colours.count(c) for c in vocabulary.COLOURS]) / len(drawn) - 1 / 8).max() < 0.035


def names_of(entity):
    if entity.role == "hand":
        return ("hand", "human hand")
    if entity.role == "tool":
        return TOOLS[entity.kind]
    return tuple(f"{entity.colour} {noun}" for noun in KINDS[entity.kind])


def check_caption(caption, verb, objects, entities):
    end = 0
    for span in caption.spans:
        assert span.begin >= end and span.end <= len(caption.text)
        phrase, end = caption.text[span.begin : span.end], span.end
        assert re.fullmatch(r"(a|an|the) (.+)", phrase)
        assert phrase.split(" ", 1)[1] in names_of(entities[span.entity])
        assert phrase.split()[0] != "a" or phrase.split()[1][0] not in "aeiou"
    tied = {span.entity for span in caption.spans}
    assert set(objects) <= tied <= {*objects, 0, *(i for i, e in enumerate(entities) if e.kind == VERB[verb].tool)}
    assert "{" not in caption.text and "  " not in caption.text
    rest = caption.text
    for span in reversed(caption.spans):
        rest = rest[: span.begin] + "_" + rest[span.end :]
    assert not any(re.search(rf"\b{c}\b", rest) for c in vocabulary.COLOURS)


def test_spans_cover_exactly_the_noun_phrases():
    world = Workshop(split="everything")
    for index in range(300):
        action, entities = world.clip_text(index)
        for caption in action.captions:
            check_caption(caption, action.verb, action.objects, entities)
        for caption in action.reversed_captions:
            check_caption(caption, VERB[action.verb].reverse, action.objects, entities)
    for index in range(40):
        text = world.task_text(index)
        for step in text.script:
            check_caption(step.headline, step.verb, step.objects, text.entities)
        for said in text.narrations:
            if said.step >= 0:
                step = text.script[said.step]
                check_caption(said.caption, step.verb, step.objects, text.entities)


def test_paraphrases_differ_and_no_two_verbs_share_a_sentence():
    phrases = [p for v in VERBS for p in v.phrases]
    assert len(phrases) == len(set(phrases)) == 3 * len(VERBS)
    world = Workshop(split="everything")
    texts = [c.text for i in range(100) for c in world.clip_text(i)[0].captions]
    assert len(set(texts)) > 250


def test_a_caption_and_its_reverse_are_worded_alike():
    world, seen = Workshop(split="everything"), 0
    for index in range(200):
        action, _ = world.clip_text(index)
        assert bool(action.reversed_captions) == VERB[action.verb].order_sensitive
        for true, false in zip(action.captions, action.reversed_captions):
            seen += 1
            assert true.text != false.text
            assert sorted(s.entity for s in true.spans) == sorted(s.entity for s in false.spans)
            assert true.text.split()[0] == false.text.split()[0] or true.text.split()[0].endswith("ing")
    assert seen > 200


def test_inflection():
    words = ("push", "carry", "empty", "tip", "take", "put", "stir", "lower", "get", "unstack", "mix", "rub", "close")
    assert [language.third_person(w) for w in words] == (
        "pushes carries empties tips takes puts stirs lowers gets unstacks mixes rubs closes".split()
    )
    assert [language.gerund(w) for w in words] == (
        "pushing carrying emptying tipping taking putting stirring".split()
        + "lowering getting unstacking mixing rubbing closing".split()
    )
    for frame in (*language.CAPTION_FRAMES, *SPOKEN, *LEFT_OUT):
        assert len(re.findall(r"\{v:(base|third|gerund)\}", frame)) == 1


PAIRS = [(v.name, v.reverse) for v in VERBS if not v.backwards and v.reverse != v.name]


@pytest.mark.parametrize("forwards, backwards", PAIRS)
def test_the_two_verbs_of_a_pair_are_the_same_frames_in_opposite_order(forwards, backwards):
    """The strongest form: same draws, camera and sensor still, pixel for pixel."""
    world = Workshop(split="everything", settings=STILL)
    for index in range(6):
        a, b = world.clip(index, forwards), world.clip(index, backwards)
        difference = np.abs(a.frames.astype(int) - b.frames[::-1])
        assert (difference > 2).mean() < 1e-4, index
        assert a.action.begin == len(a.frames) - b.action.end
        assert (a.frames != a.frames[::-1]).mean() > 0.01


def course(clip, roles):
    """f64 [T, F]: where the objects of the roles and the hand are, how much of them is seen, and the water in them."""
    columns = [clip.tracks.present[0], clip.tracks.points[0, :, 0, 1] * clip.tracks.present[0]]
    for role in roles:
        entity = clip.action.objects[role]
        here, box = clip.tracks.present[entity], clip.tracks.boxes[entity]
        x = np.where(here, clip.tracks.points[entity, :, 0, 0], 0.5)
        wet = (np.abs(clip.frames.astype(int) - (70, 190, 235)).sum(-1) < 30) & (clip.masks == entity + 1)
        columns += [here, x - x.mean(), box[:, 1] * here, box[:, 3] - box[:, 1], clip.tracks.visibility[entity]]
        columns.append(wet.mean((1, 2)) * 100)
    return np.stack(columns, 1).astype(float)


@pytest.mark.parametrize("forwards, backwards", [*PAIRS, ("pour", "pour")])
def test_a_pair_is_alike_in_distribution_once_turned_round_and_only_then(forwards, backwards):
    """Independent samples with camera, pendulum and noise: every statistic of every frame agrees after reversal."""
    world, count = Workshop(seed=7, split="everything", size=32), 90
    roles = range(len(VERB[forwards].roles))
    other = roles[::-1] if forwards == "pour" else roles
    a = np.stack([course(world.clip(i, forwards), roles) for i in range(count)])
    b = np.stack([course(world.clip(1000 + i, backwards), other) for i in range(count)])

    def largest_z(a, b):
        error = np.sqrt((a.var(0) + b.var(0)) / count)
        return (np.abs(a.mean(0) - b.mean(0)) / np.maximum(error, 0.01)).max()

    assert largest_z(a, b[:, ::-1]) < 4.5
    assert largest_z(a, b) > 6
