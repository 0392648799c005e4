"""Joint arrays with their captions and frame rates from every place these can come from."""

import json

import numpy as np
import pytest

from vtjax.data.readers.captions import BANDAI_CONTENTS, BANDAI_STYLES, bandai_sentence, description_sentence
from vtjax.data.readers.joint_arrays import read_joint_arrays
from vtjax.errors import Problems, VtjaxError


def joints(frames=6, count=22):
    return np.random.default_rng(frames).normal(size=(frames, count, 3)).astype(np.float32)


def test_single_files_and_folders(tmp_path):
    np.save(tmp_path / "one.npy", joints(6))
    np.savez(tmp_path / "many.npz", a=joints(7), b=joints(8), fps=30.0, joint_names=[f"j{i}" for i in range(22)])
    (one,) = read_joint_arrays(tmp_path / "one.npy", fps=25)
    assert one.key == "one" and one.fps == 25 and one.names is None
    np.testing.assert_array_equal(one.joints, joints(6))
    a, b = read_joint_arrays(tmp_path / "many.npz")
    assert (a.key, b.key, a.fps, a.names[3], len(b.joints)) == ("a", "b", 30.0, "j3", 8)
    assert "many.npz[b]" in b.where
    folder = list(read_joint_arrays(tmp_path, fps=10))
    assert [m.key for m in folder] == ["many/a", "many/b", "one"] and {m.fps for m in folder} == {10}


def test_frame_rate_places(tmp_path):
    path = tmp_path / "x_15fps_f16.npz"
    np.savez(path, s=joints())
    assert next(iter(read_joint_arrays(path))).fps == 15.0
    path = tmp_path / "y.npz"
    np.savez(path, s=joints(), t=joints())
    with pytest.raises(VtjaxError, match=r"y.npz\[s\]: the frame rate is unknown: pass --fps"):
        list(read_joint_arrays(path))
    (tmp_path / "y_meta.json").write_text(json.dumps({"s": {"fps": 24}, "t": {"fps": 60}}))
    assert [m.fps for m in read_joint_arrays(path)] == [24.0, 60.0]


def test_captions_from_json_and_csv(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, s=joints(), t=joints(), u=joints())
    (tmp_path / "x.csv").write_text('key,text,label\ns,"A man, walking.",walk\ns,He walks.,walk\nt, ,\n')
    problems = Problems()
    s, t, u = read_joint_arrays(path, fps=20, problems=problems)
    assert s.captions == ("A man, walking.", "He walks.") and s.label == "walk"
    assert t.captions == u.captions == () and problems.counts() == {"empty caption": 1}
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"s": "one", "t": ["two", "three"], "u": {"description": "slow walk"}}))
    s, t, u = read_joint_arrays(path, fps=20, captions=str(other))
    assert (s.captions, t.captions) == (("one",), ("two", "three"))
    assert u.captions == ("A person walks forward slowly.",) and u.label == "walk"


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("c.json", '{\n"s": ', "c.json:2"),
        ("c.json", "[]", "an object from motion key"),
        ("c.json", '{"s": 3}', "'s': a sentence"),
        ("c.csv", "name,words\ns,hello\n", "the columns 'key' and 'text'"),
        ("c.csv", "key,text\ns\n", "c.csv:2: a row needs"),
    ],
)
def test_bad_caption_files(tmp_path, name, text, words):
    np.save(tmp_path / "s.npy", joints())
    (tmp_path / name).write_text(text)
    with pytest.raises(VtjaxError, match=words):
        list(read_joint_arrays(tmp_path / "s.npy", fps=20, captions=str(tmp_path / name)))
    with pytest.raises(VtjaxError, match="no such captions file"):
        list(read_joint_arrays(tmp_path / "s.npy", fps=20, captions=str(tmp_path / "absent.csv")))


def test_damaged_files_are_counted_or_raised(tmp_path):
    np.save(tmp_path / "a.npy", joints())
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    problems = Problems()
    assert [m.key for m in read_joint_arrays(tmp_path, fps=20, problems=problems)] == ["a"]
    assert problems.counts() == {"unreadable array file": 1} and "truncated npy" in problems.items[0].where
    with pytest.raises(VtjaxError, match="truncated npy"):
        list(read_joint_arrays(tmp_path, fps=20))
    with pytest.raises(VtjaxError, match="no such file or folder"):
        list(read_joint_arrays(tmp_path / "absent", fps=20))


def test_label_sentences():
    assert bandai_sentence("dataset-1_walk-back_old_001") == ("walk-back", "a person walks backwards in an elderly way")
    assert bandai_sentence("dataset-1_bow_normal_002") == ("bow", "a person bows")
    assert bandai_sentence("dataset-1_fly_normal_002") is None and bandai_sentence("01_01") is None
    assert description_sentence("dance - turn, jete") == ("dance", "a person dances: turn, jete")
    assert description_sentence("run/jog") == ("run/jog", "a person jogs forward")
    assert description_sentence("juggling") == ("juggling", "juggling")


def test_bandai_set_is_covered(shared_data):
    motions = list(read_joint_arrays(shared_data / "motion/bandai1_joints21_15fps_f16.npz"))
    assert len(motions) == 174 and {m.fps for m in motions} == {15.0}
    assert {m.label for m in motions} == set(BANDAI_CONTENTS) and len(BANDAI_CONTENTS) == 16
    assert all(m.captions and m.sentence for m in motions)
    assert len({m.sentence for m in motions if "_walk_" in m.key}) == len(BANDAI_STYLES) == 15
    assert motions[0].joints.dtype == np.float32 and motions[0].names[0] == "Hips"


def test_cmu_set_is_covered(shared_data):
    motions = {m.key: m for m in read_joint_arrays(shared_data / "motion/cmu_joints22_20fps.npz")}
    assert len(motions) == 61 and {m.fps for m in motions.values()} == {20.0}
    assert all(m.sentence.startswith("a person ") for m in motions.values())
    assert motions["07_04"].captions == ("A human walks straight.", "A person walks forward slowly.")
    meta = json.loads((shared_data / "motion/cmu_joints22_20fps_meta.json").read_text())
    described = {key: entry["kit_captions"] for key, entry in meta.items() if entry["kit_captions"]}
    assert len(described) == 12
    for key, texts in described.items():
        assert list(motions[key].captions[: len(texts)]) == texts
