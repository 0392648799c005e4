import json

import numpy as np
import pytest

from vtjax.errors import Problems, VtjaxError
from vtjax.text.events import checked_events, split_events, token_overlap
from vtjax.worlds import motion_actions, motion_captions

CASES = {
    "A person bends over then kicks back his left leg.": ["A person bends over.", "A person kicks back his left leg."],
    "A person waves with the left hand, then squats down":
        ["A person waves with the left hand.", "A person squats down."],
    "a woman sits down after walking forward quickly": ["A woman walks forward quickly.", "A woman sits down."],
    "After turning left, a person hops on the right leg and then punches.":
        ["A person turns left.", "A person hops on the right leg.", "A person punches."],
    "Before sitting down, someone walks forward, then turns around.":
        ["Someone walks forward.", "Someone turns around.", "Someone sits down."],
    "First, a person claps, then jumps up and finally bows.":
        ["A person claps.", "A person jumps up.", "A person bows."],
    "The man walks. Then the man waves. Finally, he sits.": ["The man walks.", "The man waves.", "The man sits."],
    "A person squats before they wave.": ["A person squats.", "A person waves."],
    "A person walks forward while waving; then he stops.": ["A person walks forward while waving.", "A person stops."],
    "A man turns around as he raises both arms.": ["A man turns around as he raises both arms."],
    "A person claps and jumps at the same time, followed by a bow.":
        ["A person claps and jumps at the same time.", "A person performs a bow."],
    "A person is walking forward then turning left": ["A person is walking forward.", "A person is turning left."],
    "A person walks forward, followed by sitting down and standing up.":
        ["A person walks forward.", "A person sits down and stands up."],
    "A person walks forward then backward three steps":
        ["A person walks forward.", "A person walks backward three steps."],
    "walks forward then sits": ["A person walks forward.", "A person sits."],
    "A person stops after 5 steps.": ["A person stops after 5 steps."],
    "A human jumps and goes forward afterwards": ["A human jumps.", "A human goes forward."],
    "A human walks and is then pushed.": ["A human walks.", "A human is pushed."],
    "The man turns to the right after taking a bow.": ["The man takes a bow.", "The man turns to the right."],
    "The man sits right after taking a bow.": ["The man takes a bow.", "The man sits."],
    "Two people walk forward, then shake hands.": ["Two people walk forward.", "Two people shake hands."],
    "He moves 2.5 m to the left.": ["He moves 2.5 m to the left."],
    "The left arm is raised then the right arm is lowered": ["The left arm is raised.", "The right arm is lowered."],
}  # fmt: skip


@pytest.mark.parametrize("text", CASES)
def test_split(text):
    assert split_events(text) == CASES[text]


@pytest.mark.parametrize("text", ["", "   ", ".", None, 3])
def test_empty_captions_are_refused(text):
    with pytest.raises(VtjaxError, match="empty"):
        split_events(text)


def test_agrees_with_the_gold_events_of_the_motion_world():
    rng, agree, total = np.random.default_rng(5), 0, 1500
    for _ in range(total):
        names = rng.choice(motion_actions.NAMES, rng.integers(1, 5), replace=False)
        caption = motion_captions.make_caption(names, rng)
        agree += tuple(split_events(caption.text)) == caption.events
    assert agree / total >= 0.995


def test_kit_captions_split_into_sensible_events(shared_data):
    path = shared_data / "motion" / "kitml_text" / "annotations.json"
    if not path.exists():
        pytest.skip(f"{path} not found")
    entries = json.loads(path.read_text()).values()
    texts = sorted({annotation["text"] for entry in entries for annotation in entry["annotations"]})
    several = 0
    for text in texts[::4]:
        events = split_events(text)
        assert all(event.endswith(".") and event[0] == event[0].upper() and len(event) > 3 for event in events), text
        assert token_overlap(text, events) >= 0.6, (text, events)
        assert not any(event.lower().startswith(("then ", "and ", "finally ")) for event in events), (text, events)
        several += len(events) > 1
    with_connective = sum(" then " in text or " finally " in text for text in texts[::4])
    assert with_connective * 0.9 <= several <= with_connective * 1.5


def test_overlap_ignores_verb_forms_and_connectives():
    assert token_overlap("A man sits after waving.", ["A man waves.", "A man sits."]) == 1
    assert token_overlap("A man sits after waving.", ["A dog barks loudly."]) == 0
    assert token_overlap("A man sits after waving both hands high.", ["A man sits."]) < 0.6


@pytest.mark.parametrize(
    "events, reason",
    [
        ([], "non-empty list"), ("A man walks.", "non-empty list"), (None, "non-empty list"),
        ({"a": 1}, "non-empty list"),
        (["A man walks.", " "], "non-empty strings"), (["A man walks.", 3], "non-empty strings"),
        (["A cat sleeps on the sofa."], "share less than 0.6"),
    ],
)  # fmt: skip
def test_invalid_events_fall_back_to_the_caption_and_are_counted(events, reason):
    problems = Problems()
    assert checked_events("A man walks then sits.", events, problems, "a.json") == ["A man walks then sits."]
    (problem,) = problems.items
    assert problem.where == "a.json" and reason in problem.reason


def test_identical_events_are_kept_and_flagged():
    problems = Problems()
    events = ["A man hops.", "A man  hops."]
    assert checked_events("A man hops then hops.", events, problems, "b") == ["A man hops.", "A man hops."]
    assert problems.counts() == {"all events are identical: they have no wrong order": 1}
