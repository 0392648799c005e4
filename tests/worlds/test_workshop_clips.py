"""Clips drawn into a folder, and the classes and prompts of the workshop."""

import numpy as np
import pytest

from vtjax.worlds import workshop_clips
from vtjax.worlds.workshop import Workshop
from vtjax.worlds.workshop_classes import pair_classes, workshop_pairs

SIZE, FRAMES = 32, 4


def drawn(cache):
    counts = {"train": 6, "val": 2, "test": 4}
    return workshop_clips.world_clips(counts, seed=0, size=SIZE, frames=FRAMES, cache=cache)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("cache"))


def test_drawn_clips_are_the_world_s(clips):
    pairs = workshop_pairs()
    assert [item["split"] for item in clips.items] == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    made = Workshop(0, SIZE, "pretrain", workshop_clips.settings_of(FRAMES)).clip(4)
    with clips.open(4) as video:
        np.testing.assert_array_equal(video.frames([3, 0]), made.frames[[3, 0]])
        assert len(video) == 4 and video.end == workshop_clips.SECONDS
    item = clips.items[4]
    assert item["captions"] == [c.text for c in made.captions]
    kinds = tuple(made.entities[o].kind for o in made.action.objects)
    assert pairs[item["class"]] == (made.action.verb, kinds)
    held_out = pair_classes().held_out[[item["class"] for item in clips.items]]
    assert held_out.tolist() == [False] * 6 + [False, True] + [False, False, True, True]


def test_drawn_clips_are_kept(clips, monkeypatch):
    monkeypatch.setattr(workshop_clips, "draws", lambda *_: pytest.fail("drawn again"))
    again = drawn(clips.folder.parent)
    assert again.fingerprint == clips.fingerprint and len(again) == 12
    assert sorted(p.name for p in clips.folder.iterdir()) == ["frames.npy", "meta.json"]


def test_the_same_draws_whatever_the_processes(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(workshop_clips, "CHUNK", 5)
    other = drawn(tmp_path)
    for name in ("frames.npy", "meta.json"):
        assert (other.folder / name).read_bytes() == (clips.folder / name).read_bytes()


def test_pair_classes_are_related_as_the_world_is():
    classes = pair_classes()
    assert len(classes) == len(set(classes.names)) == len(workshop_pairs())
    place = {name: i for i, name in enumerate(classes.names)}

    def turned(name):
        return classes.names[classes.backwards[place[name]]]

    assert turned("push right: ball") == "push left: ball" and turned("close: pot") == "open: pot"
    assert turned("pour: cup and jug") == "pour: jug and cup"
    assert classes.backwards[place["pour: cup and cup"]] == classes.backwards[place["stir: bowl"]] == -1
    assert classes.held_out[place["push right: cone"]] and not classes.held_out[place["push right: ball"]]
    prompts = classes.prompts[place["push left: ball"]]
    assert len(prompts) == len(set(prompts)) == 8 and all("ball" in p for p in prompts)
    assert {c for c in ("red", "black", "pink") if any(c in p for p in prompts)} == {"red", "black", "pink"}
    spoon = " ".join(classes.prompts[place["stir: bowl"]])
    assert "spoon" in spoon
