"""Events from generators and folders while motion is prepared, and CAR's event files written of them."""

import json
import sys
import types

import numpy as np
import pytest

from vtjax.data.motion.event_sources import EventSource, is_generator
from vtjax.data.motion.prepare import Options, prepare
from vtjax.data.motion.skeleton import REST_DIRECTIONS, TARGET_BONE_LENGTHS, joints_from
from vtjax.data.motion.store import MotionStore
from vtjax.data.readers.car_events import write_events
from vtjax.errors import Problems, VtjaxError

HOP = "A person hops, then a person sits."
EVENTS = ("A person hops.", "A person sits.")


def walker(frames, seed=0):
    body = joints_from(np.array([0, 0.9, 0], np.float32), REST_DIRECTIONS * TARGET_BONE_LENGTHS[:, None])
    noise = np.random.default_rng(seed).normal(scale=0.005, size=(frames, 22, 3))
    return (body + noise + np.arange(frames)[:, None, None] * [0, 0, 0.02]).astype(np.float32)


@pytest.fixture
def asked(monkeypatch):
    """A Python generator call:fake_events:answer that splits at ", then "; the prompts it was asked."""
    prompts = []

    def answer(system, prompt):
        prompts.append(prompt)
        caption = prompt.removeprefix("Caption: ")
        if "nonsense" in caption:
            return "I cannot."
        events = [part.strip(" .") + "." for part in caption.split(", then ")]
        return json.dumps({"events": [event[0].upper() + event[1:] for event in events]})

    monkeypatch.setitem(sys.modules, "fake_events", types.SimpleNamespace(answer=answer))
    return prompts


def options(source, output, **changes):
    return Options((str(source),), str(output), **({"fps": 20.0, "window_seconds": 2.0} | changes))


def joints_folder(path):
    np.savez(path / "x.npz", a=walker(70), b=walker(30, 1))
    (path / "x.csv").write_text(f'key,text\na,"{HOP}"\na,Some nonsense\nb,A person waves.\n')
    return path / "x.npz"


def events_of(store):
    return {clip.key: [c.events for c in clip.captions] for clip in MotionStore(store)}


def test_a_generator_gives_events_and_files_and_is_asked_once(tmp_path, asked):
    source, answers = joints_folder(tmp_path), tmp_path / "answers.jsonl"
    common = {"events_cache": str(answers), "write_events": str(tmp_path / "files")}
    summary = prepare(options(source, tmp_path / "a", events="call:fake_events:answer", **common))
    expected = [EVENTS, ("Some nonsense",)]
    assert events_of(tmp_path / "a") == {"a_w0": expected, "a_w1": expected, "b": [("A person waves.",)]}
    assert len(asked) == 3 and len(answers.read_text().splitlines()) == 3
    assert [p.where for p in summary.problems.items] == ["a_1"]
    assert "the answer is not the JSON asked for" in str(summary) and "event files written" in str(summary)

    files = tmp_path / "files" / "event_texts"
    assert sorted(p.name for p in files.iterdir()) == ["a_0.json", "a_1.json", "b_0.json"]
    assert json.loads((files / "a_0.json").read_text()) == {"events": list(EVENTS)}
    for name, spec in (("b", f"cache:{answers}"), ("c", str(files)), ("d", str(files.parent))):
        prepare(options(source, tmp_path / name, events=spec))
        assert events_of(tmp_path / name) == events_of(tmp_path / "a")
    assert len(asked) == 3
    with pytest.raises(VtjaxError, match="event files already"):
        prepare(options(source, tmp_path / "e", events="rules", write_events=str(tmp_path / "files")))
    with pytest.raises(VtjaxError, match="--strict: 1 problems"):
        changes = {"events": f"cache:{answers}", "strict": True, "write_events": str(tmp_path / "g")}
        prepare(options(source, tmp_path / "f", **changes))
    assert not (tmp_path / "g").exists()


def test_a_cache_that_lacks_a_caption_names_it(tmp_path, asked):
    source = joints_folder(tmp_path)
    with pytest.raises(VtjaxError, match=r"lacks 2 of 2 prompts.*a_0: 'Caption: A person hops"):
        prepare(options(source, tmp_path / "out", events=f"cache:{tmp_path / 'none.jsonl'}"))
    assert not (tmp_path / "out").exists()


def annotated(path, layout):
    """One motion whose first caption is too short for the training split."""
    from vtjax.data.motion.features import joints_to_features

    (path / "new_joint_vecs").mkdir(parents=True)
    np.save(path / "new_joint_vecs/k.npy", joints_to_features(walker(101)))
    (path / "train.txt").write_text("k\n")
    spans = [("A person nods.", 0.0, 1.0), (HOP, 0.0, 4.0), ("A person waves.", 1.0, 4.0)]
    if layout == "humanml3d":
        (path / "texts").mkdir()
        (path / "texts/k.txt").write_text("".join(f"{text}#x#{start}#{end}\n" for text, start, end in spans))
    else:
        notes = [{"text": text, "start": start, "end": end} for text, start, end in spans]
        (path / "annotations.json").write_text(json.dumps({"k": {"path": "k", "duration": 5.0, "annotations": notes}}))
    return options(path, path / "out", format=layout, features=str(path / "new_joint_vecs"))


@pytest.mark.parametrize("layout", ["humanml3d", "tmr"])
def test_annotated_folders_name_files_by_the_unfiltered_index(tmp_path, asked, layout):
    import dataclasses

    plain = annotated(tmp_path / layout, layout)
    prepare(dataclasses.replace(plain, events="call:fake_events:answer", write_events=str(tmp_path / "event_texts")))
    assert events_of(plain.output) == {"k": [EVENTS, ("A person waves.",)]}
    assert [c.index for c in MotionStore(plain.output)[0].captions] == [1, 2]
    assert sorted(p.name for p in (tmp_path / "event_texts").iterdir()) == ["k_1.json", "k_2.json"]
    again = dataclasses.replace(plain, output=str(tmp_path / "again"), events=str(tmp_path / "event_texts"))
    assert not len(prepare(again).problems.counts().keys() - {"train caption outside 2 to 10 s"})
    assert events_of(again.output) == events_of(plain.output)


def test_the_filtered_index_reads_another_captions_events(tmp_path):
    import dataclasses

    plain = annotated(tmp_path / "tmr", "tmr")
    for i, name in enumerate("xyz"):
        write_events(tmp_path / "event_texts", "k", i, [f"{name}.", f"{name} again."])
    for index, first in (("unfiltered", "yz"), ("filtered", "xy")):
        case = dataclasses.replace(
            plain, output=str(tmp_path / index), events=str(tmp_path / "event_texts"), event_index=index
        )
        prepare(case)
        assert [own[0][0] for own in events_of(tmp_path / index)["k"]] == list(first)


def test_stitched_pairs_write_their_own_events(tmp_path):
    np.savez(tmp_path / "x.npz", a=walker(60), b=walker(60, 1))
    (tmp_path / "x.csv").write_text("key,text\na,A person hops.\nb,A person sits.\n")
    changes = {"stitch_pairs": 2, "split_by": "none", "write_events": str(tmp_path)}
    prepare(options(tmp_path / "x.npz", tmp_path / "out", **changes))
    written = {p.stem: tuple(json.loads(p.read_text())["events"]) for p in (tmp_path / "event_texts").iterdir()}
    assert written == {f"{clip.key}_0": clip.captions[0].events for clip in MotionStore(tmp_path / "out")}
    assert set(written.values()) <= {EVENTS, EVENTS[::-1]}
    with pytest.raises(VtjaxError, match="stitched pairs know their events"):
        prepare(options(tmp_path / "x.npz", tmp_path / "o", **changes, events="cache:x"))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"events": "absent"}, "--events=absent: no such folder; rules, none, cache:PATH"),
        ({"events": "call:no_such_module:f"}, "no_such_module"),
        ({"events": "http://localhost:1/v1"}, "names no model"),
        ({"events": "rules", "events_cache": "c.jsonl"}, "but --events=rules"),
        ({"events": "cache:a", "events_cache": "c.jsonl"}, "but --events=cache:a"),
        ({"events": "none", "write_events": "w"}, "no events to write"),
        ({"event_index": "filtered"}, "TMR's annotations.json"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, changes, words):
    with pytest.raises(VtjaxError, match=words):
        prepare(options(joints_folder(tmp_path), tmp_path / "out", **changes))


def test_what_is_a_generator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    specs = ("cache:a", "call:m:f", "http:localhost:8000/v1#m", "https://host/v1#m")
    assert all(map(is_generator, specs))
    assert not any(map(is_generator, ("rules", "none", "event_texts", "C:/events", "caches")))
    (tmp_path / "cache:a").mkdir()
    assert not is_generator("cache:a")
    with pytest.raises(VtjaxError, match="about a folder of event files"):
        EventSource("rules", Problems(), index="filtered")
