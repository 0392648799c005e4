"""`vtjax.prepare`: its command, every layout into a store, and what it says of bad input."""

import json
import os
import pathlib
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from vtjax import command_line
from vtjax.data.motion.prepare import Options, detect_format, prepare
from vtjax.data.motion.skeleton import REST_DIRECTIONS, TARGET_BONE_LENGTHS, joints_from
from vtjax.data.motion.store import MotionStore
from vtjax.data.readers.car_events import write_events
from vtjax.errors import VtjaxError

ROOT = pathlib.Path(__file__).parents[1]


def walker(frames, seed=0):
    """Joints [frames, 22, 3] of a stiff body that goes forward with a little noise."""
    body = joints_from(np.array([0, 0.9, 0], np.float32), REST_DIRECTIONS * TARGET_BONE_LENGTHS[:, None])
    noise = np.random.default_rng(seed).normal(scale=0.005, size=(frames, 22, 3))
    return (body + noise + np.arange(frames)[:, None, None] * [0, 0, 0.02]).astype(np.float32)


def command(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "vtjax.prepare", *arguments], capture_output=True, text=True, env=environment
    )


def options(source, output, **changes):
    return Options((str(source),), str(output), **({"events": "none"} | changes))


def test_help_is_quick_and_names_the_flags():
    start = time.monotonic()
    result = command("--help")
    assert time.monotonic() - start < 3
    for flag in ("--kind", "--input", "--stitch_pairs", "--joint_map", "--holdout"):
        assert flag in result.stdout


def test_command_writes_a_store(tmp_path):
    np.savez(tmp_path / "x.npz", a=walker(40), b=walker(30, 1))
    (tmp_path / "x.csv").write_text("key,text\na,A man walks.\nb,A man strolls.\n")
    arguments = [f"--input={tmp_path / 'x.npz'}", "--fps=20", "--events=none", f"--output={tmp_path / 'out'}"]
    result = command("--kind=motion", *arguments)
    assert result.returncode == 0, result.stderr
    assert "read 2 motions, 2 usable" in result.stdout and "wrote 2 clips" in result.stdout
    store = MotionStore(tmp_path / "out")
    assert [(c.key, len(c.features), c.captions[0].text) for c in store] == [
        ("a", 39, "A man walks."),
        ("b", 29, "A man strolls."),
    ]
    again = command(*arguments)
    assert again.returncode == 2 and "exists already" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    "arguments, status, words",
    [
        (["--input=absent.npz", "--output=o"], 2, "absent.npz: no such file or folder"),
        (["--kind=vidoe"], 2, "--kind=vidoe: unknown kind: did you mean 'video'?"),
        (["--input=x", "--output=o", "oops"], 2, "unexpected argument 'oops'"),
        (["--input=x"], 2, "--output"),
        (["--input=x", "--output=o", "--segment_seconds=3,1"], 2, "two rising numbers"),
    ],
)
def test_wrong_commands(arguments, status, words):
    result = command(*arguments)
    assert result.returncode == status
    assert words in result.stderr + result.stdout and "Traceback" not in result.stderr


def broken_folder(path):
    good = walker(40)
    np.save(path / "good.npy", good)
    np.save(path / "one_frame.npy", good[:1])
    np.save(path / "short.npy", good[:5])
    np.save(path / "nan.npy", np.where(np.arange(40)[:, None, None] == 3, np.nan, good))
    np.save(path / "joints21.npy", good[:, :21])
    np.save(path / "flat.npy", good[:, 0])
    np.save(path / "same_point.npy", np.where(np.arange(22)[None, :, None] == 3, good[:, :1], good))
    (path / "cut.npy").write_bytes((path / "good.npy").read_bytes()[:-50])


def test_bad_motions_are_left_out_and_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    broken_folder(source)
    summary = prepare(options(source, tmp_path / "out", fps=20.0))
    assert MotionStore(tmp_path / "out").keys == ("good",)
    text = str(summary)
    for words in (
        "1-frame clip", "too short: at least 10 frames", "NaN or infinite values", "no joint map fits", "21 joints",
        "[frames, joints, 3]", "truncated npy", "no features can be computed", "read 7 motions, 1 usable",
    ):  # fmt: skip
        assert words in text, words
    assert sum(summary.meta["left_out"].values()) == 7
    with pytest.raises(VtjaxError, match="--strict: 7 problems"):
        prepare(options(source, tmp_path / "strict", fps=20.0, strict=True))
    (source / "good.npy").unlink()
    with pytest.raises(VtjaxError, match="nothing usable"):
        prepare(options(source, tmp_path / "none", fps=20.0))
    assert not (tmp_path / "strict").exists() and not (tmp_path / "none").exists()


def test_units_axis_and_rate_do_not_change_features(tmp_path):
    joints = walker(61)
    made = {}
    for name, array, changes in (
        ("plain", joints, {"fps": 20.0}),
        ("centimetres", joints * 100, {"fps": 20.0}),
        ("z_up", joints[..., [0, 2, 1]] * [1, -1, 1], {"fps": 20.0, "up": "z"}),
        ("scaled", joints / 3, {"fps": 20.0, "scale": "3"}),
        ("fast", np.repeat(joints, 3, 0)[: 60 * 3 + 1], {"fps": 60.0}),
    ):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
        prepare(options(tmp_path / f"{name}.npy", tmp_path / f"{name}.out", **changes))
        made[name] = MotionStore(tmp_path / f"{name}.out")[0].features
    for name, features in made.items():
        np.testing.assert_allclose(features, made["plain"], atol=2e-4, err_msg=name)
    assert "centimetres" in str(MotionStore(tmp_path / "centimetres.out").meta["notes"])


def test_windows_cover_the_sequence_and_share_its_split(tmp_path):
    np.savez(tmp_path / "x.npz", **{f"s{i}": walker(230 + i, i) for i in range(4)}, short=walker(50))
    prepare(options(tmp_path / "x.npz", tmp_path / "out", fps=20.0, window_seconds=5.0, mirror=True))
    store = MotionStore(tmp_path / "out")
    assert [len(c.features) for c in store if c.key.startswith("s0_w")] == [76, 77, 76]
    splits = {r["key"]: r["split"] for r in store.records}
    for i in range(4):
        assert len({splits[f"s{i}_w{w}"] for w in range(3)}) == 1
    assert {k for k, s in splits.items() if k.startswith("M")} == {
        "M" + k for k, s in splits.items() if s == "train" and not k.startswith("M")
    }
    assert set(splits.values()) == {"train", "test"}


def test_events_from_rules_and_folder(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", a=walker(40))
    (tmp_path / "x.csv").write_text("key,text\na,Hops; turns\na,Sits\n")
    fake = types.SimpleNamespace(split_events=lambda text: text.split("; "))
    monkeypatch.setitem(sys.modules, "vtjax.text.events", fake)
    prepare(options(tmp_path / "x.npz", tmp_path / "rules", fps=20.0, events="rules"))
    assert [c.events for c in MotionStore(tmp_path / "rules")[0].captions] == [("Hops", "turns"), ("Sits",)]
    write_events(tmp_path / "events", "a", 1, ["Sits down.", "Rests."])
    summary = prepare(options(tmp_path / "x.npz", tmp_path / "own", fps=20.0, events=str(tmp_path / "events")))
    assert [c.events for c in MotionStore(tmp_path / "own")[0].captions] == [(), ("Sits down.", "Rests.")]
    assert summary.problems.counts() == {"no event file for a caption": 1}


def annotated_folder(path):
    from vtjax.data.motion.features import joints_to_features

    (path / "new_joint_vecs").mkdir(parents=True)
    (path / "texts").mkdir()
    for i in range(6):
        features = joints_to_features(walker(80, i))
        np.save(path / f"new_joint_vecs/{i:06d}.npy", features)
        (path / f"texts/{i:06d}.txt").write_text(f"a person does thing {i}.#x#0.0#0.0\n")
    (path / "train.txt").write_text("000000\n000001\n000002\n")
    (path / "test.txt").write_text("000003\n000004\n000005\n")
    (path / "nsim_test.txt").write_text("000005\n000009\n")


def test_humanml3d_and_tmr_folders(tmp_path):
    folder = tmp_path / "h3d"
    annotated_folder(folder)
    summary = prepare(options(folder, tmp_path / "a"))
    store = MotionStore(tmp_path / "a")
    assert store.splits == {"train": 3, "test": 3, "nsim_test": 1}
    assert "test: 3 listed, 3 annotated, 3 motions on disk, 3 used; 3 of 3 captions used" in str(summary)
    np.testing.assert_array_equal(store[4].features, np.load(folder / "new_joint_vecs/000004.npy"))

    entries = {
        f"{i:06d}": {
            "path": f"{i:06d}", "duration": 4.0,
            "annotations": [{"seg_id": f"{i:06d}_0", "text": f"thing {i}", "start": 0.0, "end": 4.0}],
        } for i in range(6)
    }  # fmt: skip
    tmr = tmp_path / "tmr"
    tmr.mkdir()
    (tmr / "annotations.json").write_text(json.dumps(entries))
    (tmr / "train.txt").write_text((folder / "train.txt").read_text())
    prepare(options(tmr, tmp_path / "b", features=str(folder / "new_joint_vecs")))
    np.testing.assert_array_equal(MotionStore(tmp_path / "b")[1].features, store[1].features)
    with pytest.raises(VtjaxError, match="already hold mirrored ids"):
        prepare(options(folder, tmp_path / "c", mirror=True))
    with pytest.raises(VtjaxError, match="cannot be prepared together"):
        np.save(tmp_path / "x.npy", walker(30))
        prepare(Options((str(folder), str(tmp_path / "x.npy")), str(tmp_path / "d")))


def test_stitched_pairs_of_an_annotated_folder_keep_its_splits(tmp_path):
    annotated_folder(tmp_path / "h3d")
    prepare(options(tmp_path / "h3d", tmp_path / "pairs", stitch_pairs=8))
    store = MotionStore(tmp_path / "pairs")
    assert store.splits == {"train": 6, "test": 2}
    for record in store.records:
        parts = {int(k) // 3 for k in record["key"].split("#")[0].split("+")}
        assert parts == {0 if record["split"] == "train" else 1}
    assert store[0].captions[0].text.count("a person") + store[0].captions[0].text.count("A person") == 2


def test_formats_are_detected(tmp_path):
    with pytest.raises(VtjaxError, match="no motions found"):
        detect_format(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(VtjaxError, match="unknown kind of file"):
        detect_format(tmp_path / "a.txt")
    np.save(tmp_path / "a.npy", np.zeros(3))
    assert detect_format(tmp_path) == detect_format(tmp_path / "a.npy") == "joints"
    (tmp_path / "b.BVH").write_text("")
    assert detect_format(tmp_path) == detect_format(tmp_path / "b.BVH") == "bvh"


@pytest.mark.parametrize(
    "name, motions",
    [("cmu_joints22_20fps.npz", 61), ("bandai1_joints21_15fps_f16.npz", 174), ("cmu_12_01_walk.bvh", 1)],
)
def test_real_motions_all_become_features(shared_data, tmp_path, name, motions):
    summary = prepare(options(shared_data / "motion" / name, tmp_path / "out", window_seconds=0.0))
    store = MotionStore(tmp_path / "out")
    assert summary.usable == len(store) == motions and not len(summary.problems)
    features = np.concatenate([c.features for c in store])
    assert np.isfinite(features).all()
    # The target skeleton's legs and spine: an upright body's root is at 0.8 to 1.0 m most of the time.
    assert 0.75 < np.median(features[:, 3]) < 1.05
    if motions == 1:  # the subject walks forward: the root moves along its own z
        assert features[:, 2].mean() > 0.02 and abs(features[:, 1].mean()) < 0.01


def test_real_stitched_pairs_share_no_source_between_splits(shared_data, tmp_path):
    files = ("cmu_joints22_20fps.npz", "bandai1_joints21_15fps_f16.npz")
    inputs = tuple(str(shared_data / "motion" / f) for f in files)
    prepare(Options(inputs, str(tmp_path / "out"), events="none", stitch_pairs=40))
    store = MotionStore(tmp_path / "out")
    used = {"train": set(), "test": set()}
    for record in store.records:
        used[record["split"]] |= set(record["key"].split("#")[0].split("+"))
    assert store.splits == {"train": 30, "test": 10}
    assert used["train"] and used["test"] and not used["train"] & used["test"]
    for clip in store:
        assert len(clip.captions[0].events) == 2 and clip.swapped is not None and len(clip.features) < 224


@pytest.mark.parametrize(
    "error, words",
    [(VtjaxError("bad key 'x'"), "error: bad key 'x'"), (OSError(28, "No space"), "disk is full")],
)
def test_users_errors_exit_with_2(error, words, capsys):
    def main(argv):
        raise error

    with pytest.raises(SystemExit) as stop:
        command_line.run(main, ["prog"])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    def main(argv):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        command_line.run(main, ["prog"])
