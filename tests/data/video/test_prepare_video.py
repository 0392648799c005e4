"""`vtjax.prepare --kind=video` and the folder it writes: contents, resuming, hosts, features, crashes."""

import dataclasses
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from vtjax.data.video.container import VideoError
from vtjax.data.video.plan import make_plan
from vtjax.data.video.prepare import Options, prepare
from vtjax.data.video.sampling import Sampler
from vtjax.data.video.shards import Making
from vtjax.data.video.source import read_clip
from vtjax.data.video.store import VideoStore
from vtjax.data.video_records import VideoRecord
from vtjax.encoders.image import ImageTransform
from vtjax.errors import VtjaxError

ROOT = pathlib.Path(__file__).parents[3]
EXACT = Making(fps=5, size=0, codec="png", chunk_rows=4)


@pytest.fixture(scope="module")
def folder(video, tmp_path_factory):
    """Nine videos of 20 to 28 frames at 10 fps, and a list of them with a line that is wrong."""
    root = tmp_path_factory.mktemp("mine")
    rows = ["video,label,start,end,caption,narration,split"]
    for index in range(9):
        name = f"v{index}.mp4"
        video.write(root / name, 20 + index, brightness=12 * index)
        rows.append(f"{name},{'ab'[index % 2]},,,Video {index}.,,{'test' if index > 6 else 'train'}")
        rows.append(f"{name},step,0.5,1.2,,I do {index},")
    rows += ["absent.mp4,a,,,,,", "v0.mp4,a,9,,,,"]
    (root / "list.csv").write_text("\n".join(rows))
    return root


def options(folder, output, **changes):
    making = changes.pop("making", EXACT)
    return Options(str(output), str(folder / "list.csv"), making=making, **({"processes": 0} | changes))


def command(*arguments, **settings):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *settings.pop("path", [])])}
    line = [sys.executable, "-m", "vtjax.prepare", "--kind=video", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, **settings)


def test_contents(folder, video, tmp_path):
    summary = prepare(options(folder, tmp_path / "out"))
    store = VideoStore(tmp_path / "out")
    assert len(store) == 9 and store.keys[0] == "v0" and store.classes == ("a", "b", "step")
    assert store.splits == {"test": 2, "train": 7} and store.split("test") == [7, 8]
    for index in range(9):
        record = store.record(index)
        assert record.class_name == "ab"[index % 2] and record.captions[0].text == f"Video {index}."
        assert record.segments[0].text == "step" and record.narrations[0].text == f"I do {index}"
        assert record.duration == pytest.approx((20 + index) / 10) and record.path is None
        _, frames = video.sequential(folder / f"v{index}.mp4")
        picks = video.fixed_rate_indices(len(frames), 10, 5)
        with store.open(index) as stored:
            assert np.allclose(stored.times, (np.arange(len(picks)) + 0.5) / 5) and stored.fps == 5
            assert (stored.start, stored.end) == (0.0, record.duration) and stored.damage == ""
            wanted = [len(picks) - 1, 0, 5, 5]
            got = stored.frames(wanted)
            assert got.dtype == np.uint8
            for row, frame in zip(wanted, got, strict=True):
                assert np.abs(frame.astype(int) - frames[picks[row]]).max() == 0
            assert stored.index_at([0.0, 0.31, 99]).tolist() == [0, 1, len(picks) - 1]
            assert stored.index_near([0.19, 0.21]).tolist() == [0, 1]
    assert summary.problems.counts() == {"start without end, or end without start": 1, "no such file": 1}
    lines = [json.loads(line) for line in (tmp_path / "out/problems.jsonl").read_text().splitlines()]
    assert {line["reason"] for line in lines} == set(summary.problems.counts())
    store.verify()


def test_annotations_after_the_end_are_left_out_and_told(folder, tmp_path):
    """Of v0, which lasts 2 s."""
    rows = ["video,start,end,label,caption,narration", "v0.mp4,,,,Whole.,", "v0.mp4,1.9,9,a,Last.,so"]
    (tmp_path / "list.csv").write_text("\n".join([*rows, "v0.mp4,2,3,a,No.,no", "v0.mp4,5,6,,Nor that.,"]))
    done = Options(str(tmp_path / "out"), str(tmp_path / "list.csv"), str(folder), making=EXACT, processes=0)
    summary = prepare(done)
    record = VideoStore(tmp_path / "out").record(0)
    assert [c.text for c in record.captions] == ["Whole.", "Last."]
    assert len(record.segments) == len(record.narrations) == 1
    assert summary.noted.counts() == {"kept without the annotations that lie after its end": 1}
    assert "note on 1: kept without" in str(summary) and summary.meta["damaged"] == summary.meta["left_out"] == 0
    (problem,) = map(json.loads, (tmp_path / "out/problems.jsonl").read_text().splitlines())
    expected = "1 of 2 segments, 1 of 2 narrations, 2 of 4 captions, it ends at 2.00 s"
    assert problem["kept"] and problem["detail"] == expected


def test_the_store_feeds_clips_and_travels(folder, tmp_path):
    prepare(options(folder, tmp_path / "out"))
    store = pickle.loads(pickle.dumps(VideoStore(tmp_path / "out")))
    clip = read_clip(store[4], Sampler("segments", 3), np.random.default_rng(0))
    assert clip.frames.shape == (3, 48, 64, 3) and clip.record.id == "v4" and not clip.substitute
    with pytest.raises(VtjaxError, match="no split 'tset': did you mean 'test'"):
        store.split("tset")
    with pytest.raises(VtjaxError, match="rows 0 to 99 of"):
        store.open(0).frames([0, 99])


def test_the_result_does_not_depend_on_processes_hosts_shards_or_place(folder, tmp_path):
    one = prepare(options(folder, tmp_path / "one")).meta
    two = prepare(options(folder, tmp_path / "two", processes=2, videos_per_shard=2)).meta
    for host in (0, 1):
        three = prepare(options(folder, tmp_path / "three", shard=f"{host}/2"))
        assert (three.meta is None) == (host == 0)
        if host == 0:
            assert "still to be made" in str(three) and three.left > 0
            with pytest.raises(VtjaxError, match="not finished"):
                VideoStore(tmp_path / "three")
    assert one["fingerprint"] == two["fingerprint"] == three.meta["fingerprint"]
    assert len(two["shard_videos"]) == 5 and len(one["shard_videos"]) == 10
    other = prepare(options(folder, tmp_path / "four", making=dataclasses.replace(EXACT, fps=4))).meta
    assert other["fingerprint"] != one["fingerprint"]


def test_finished_shards_are_kept_and_broken_ones_made_again(folder, tmp_path):
    first = prepare(options(folder, tmp_path / "out"))
    shards = sorted((tmp_path / "out").glob("shard-*.json"))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-00000*")}
    shards[3].unlink()  # as if killed while it was being made
    (tmp_path / "out" / "meta.json").unlink()
    (tmp_path / "out" / f".{shards[3].stem}.77.partial").write_bytes(b"half")
    again = prepare(options(folder, tmp_path / "out"))
    assert again.made == 1 and again.meta["fingerprint"] == first.meta["fingerprint"]
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert not list((tmp_path / "out").glob(".*"))
    assert prepare(options(folder, tmp_path / "out")).made == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_command_goes_on(how, folder, tmp_path):
    tower = "import time\ndef slow(x):\n    time.sleep(0.3)\n    return x.mean((1, 2)).astype('f4')\n"
    (tmp_path / "slow_tower.py").write_text(tower)
    arguments = [f"--input={folder / 'list.csv'}", f"--output={tmp_path / 'out'}", "--features=slow_tower:slow"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    line = [sys.executable, "-m", "vtjax.prepare", "--kind=video", *arguments, "--processes=1"]
    running = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if len(list((tmp_path / "out").glob("shard-*.json"))) >= 2:
            break
        time.sleep(0.05)
    running.send_signal(how)
    said = running.communicate()[1]
    if how == signal.SIGINT:
        assert running.returncode == 130 and "Traceback" not in said and "the same command goes on" in said, said
    finished = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("shard-*.json")}
    assert 2 <= len(finished) < 10 and not (tmp_path / "out" / "meta.json").exists()
    result = command(*arguments, path=[str(tmp_path)])
    assert result.returncode == 0, result.stderr
    assert "9 videos" in result.stdout
    assert finished == {p: p.stat().st_mtime_ns for p in finished}
    assert VideoStore(tmp_path / "out").open(2).features


def test_other_settings_are_not_mixed_in(folder, tmp_path):
    prepare(options(folder, tmp_path / "out"))
    other = dataclasses.replace(EXACT, fps=2)
    with pytest.raises(VtjaxError, match=r"begun with fps 5 \(now 2\)"):
        prepare(options(folder, tmp_path / "out", making=other))
    assert prepare(options(folder, tmp_path / "out", making=other, overwrite=True)).meta["making"]["fps"] == 2
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(VtjaxError, match="is not a prepared video folder"):
            prepare(options(folder, tmp_path / "precious", overwrite=overwrite))
    assert (tmp_path / "precious" / "file").read_text() == "x"


def test_damaged_shards_are_told(folder, tmp_path):
    prepare(options(folder, tmp_path / "out"))
    shard = sorted((tmp_path / "out").glob("*.array_record"))[0]
    data = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    used = np.flatnonzero(data)  # blocks are padded with zeros
    data[used[len(used) // 2]] ^= 0xFF
    shard.write_bytes(data.tobytes())
    with pytest.raises(VtjaxError):
        VideoStore(tmp_path / "out").verify()
    shard.write_bytes(b"")
    with pytest.raises(VideoError, match="a shard is damaged or gone"):
        VideoStore(tmp_path / "out").open(0).frames([0])
    sidecar = shard.with_suffix(".json")
    sidecar.write_text(sidecar.read_text()[:-30])
    with pytest.raises(VtjaxError, match="damaged"):
        VideoStore(tmp_path / "out").record(0)
    for _name, words in (("meta.json", "no such file"), ("plan.json", "no such file")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(VtjaxError, match=words):
            VideoStore(tmp_path / "empty")


def test_segments_are_cut_out(folder, video, tmp_path):
    prepare(options(folder, tmp_path / "out", unit="segment", making=dataclasses.replace(EXACT, fps=0)))
    store = VideoStore(tmp_path / "out")
    _, frames = video.sequential(folder / "v2.mp4")
    index = store.keys.index("v2@0.5-1.2")
    stored = store.open(index)
    assert np.allclose(stored.times, np.arange(5, 12) / 10) and (stored.start, stored.end) == (0.5, 1.2)
    assert np.array_equal(stored.frames(range(7)), np.stack(frames[5:12]))
    assert store.record(index).class_name == "step" and store.record(index).narrations[0].start == 0.5


@pytest.mark.parametrize("fit, size, shape", [("short", 24, (24, 32)), ("short", 99, (48, 64)), ("crop", 24, (24, 24)),
                                              ("squash", 24, (24, 24))])  # fmt: skip
def test_sizes(fit, size, shape, folder, video, tmp_path):
    making = Making(fps=0, size=size, fit=fit, codec="png")
    prepare(options(folder, tmp_path / "out", making=making))
    frame = VideoStore(tmp_path / "out").open(1).frames([6])[0]
    _, frames = video.sequential(folder / "v1.mp4")
    assert frame.shape == (*shape, 3)
    if fit == "short":
        expected = np.asarray(Image.fromarray(frames[6]).resize(shape[::-1], Image.Resampling.BICUBIC))
    else:
        expected = ImageTransform(24, resize="shortest" if fit == "crop" else "squash").pixels(frames[6])
    assert np.array_equal(frame, expected)


def test_features_of_a_tower(folder, video, tmp_path, monkeypatch):
    (tmp_path / "my_tower.py").write_text(
        "import numpy as np\n"
        "shapes = []\n"
        "def means(x):\n"
        "    shapes.append(x.shape)\n"
        "    return x.reshape(len(x), -1, 3).mean(1).astype('f4')\n"
        "def nans(x):\n"
        "    return np.full((len(x), 2), np.nan, 'f4')\n"
        "def wrong(x):\n"
        "    return x[:1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    making = Making(fps=5, size=24, fit="squash", features="my_tower:means", batch=4, feature_dtype="float32")
    prepare(options(folder, tmp_path / "out", making=making))
    import my_tower

    assert set(my_tower.shapes) == {(4, 24, 24, 3)}  # one shape, so that a jitted tower is compiled once
    stored = VideoStore(tmp_path / "out").open(3)
    _, frames = video.sequential(folder / "v3.mp4")
    picks = video.fixed_rate_indices(len(frames), 10, 5)
    slow = [ImageTransform(24, resize="squash").pixels(frames[i]).reshape(-1, 3).mean(0) for i in picks]
    assert stored.features and stored.fps == 5
    np.testing.assert_allclose(stored.frames(range(len(stored))), np.array(slow, np.float32), atol=1e-4)

    groups = dataclasses.replace(making, frames_per_feature=5, feature_dtype="float16")
    prepare(options(folder, tmp_path / "groups", making=groups))
    stored = VideoStore(tmp_path / "groups").open(3)  # 23 frames at 10 fps: 11 at 5 fps: 3 groups, the last has one
    padded = np.zeros((15, 3))
    padded[: len(slow)] = slow
    assert len(stored) == 3 and stored.fps == 1 and stored.shape == (3,)
    np.testing.assert_allclose(stored.frames([0, 1, 2]), padded.reshape(3, 5, 3).mean(1), rtol=2e-3)
    assert stored.times[0] == pytest.approx(0.5)

    with pytest.raises(VtjaxError, match="nothing usable\n.*not finite"):
        prepare(options(folder, tmp_path / "nan", making=dataclasses.replace(making, features="my_tower:nans")))
    with pytest.raises(VtjaxError, match=r"floats \[4, ...\] are expected"):
        prepare(options(folder, tmp_path / "bad", making=dataclasses.replace(making, features="my_tower:wrong")))


def test_a_video_that_ends_its_process_or_hangs_is_left_out(folder, tmp_path):
    """The brightness tells a video: v5 kills its process, v6 hangs."""
    (tmp_path / "deadly.py").write_text(
        "import os, signal, time\n"
        "def tower(x):\n"
        "    level = round(float(x[0, 0, 0].min()) / 12)\n"
        "    if level == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if level == 6:\n"
        "        time.sleep(60)\n"
        "    return x.mean((1, 2)).astype('f4')\n"
    )
    result = command(
        f"--input={folder / 'list.csv'}", f"--output={tmp_path / 'out'}", "--features=deadly:tower", "--size=0",
        "--videos_per_shard=3", "--timeout=3", path=[str(tmp_path)],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "decoding it ended the process" in result.stdout and "takes too long" in result.stdout
    store = VideoStore(tmp_path / "out")
    assert store.keys == tuple(f"v{i}" for i in range(9) if i not in (5, 6))
    assert store.meta["left_out"] == 4  # two rows of the list besides


def test_the_command(folder, tmp_path):
    arguments = [f"--input={folder / 'list.csv'}", f"--output={tmp_path / 'out'}", "--fps=2", "--processes=1"]
    result = command(*arguments)
    assert result.returncode == 0, result.stderr
    assert "9 videos, " in result.stdout and "classes: 3; splits: test 2, train 7" in result.stdout
    assert "left out 1: start without end, or end without start" in result.stdout
    assert command(*arguments, "--strict").returncode == 2


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"input": "absent.csv"}, "absent.csv: no such file or folder"),
        ({"shard": "4/4"}, "i/n with i from 0 to n - 1"),
        ({"shard": "0/2", "overwrite": True}, "would delete the others' work"),
        ({"dataset": "crosstak"}, "did you mean 'crosstask'"),
        ({"classes": "absent.txt"}, "--classes=absent.txt"),
        ({"making": Making(weights="folder")}, "--weights=folder: of which tower"),
        ({"making": Making(features="clip_states")}, "--features=clip_states needs --weights"),
    ],
)
def test_wrong_options(changes, words, folder, tmp_path):
    with pytest.raises(VtjaxError, match=words):
        prepare(dataclasses.replace(options(folder, tmp_path / "out"), **changes))


def test_a_wrong_command_is_a_message(tmp_path):
    result = command("--input=x", "--output=o", "--codec=gif", cwd=tmp_path)
    assert result.returncode == 2 and "codec" in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def speech(tmp_path):
    """A HowTo100M of v0, v1, v2 and one that is not on disk."""
    said = {name: {"text": ["I stir"], "start": [0.5], "end": [1.5]} for name in ("v0", "v1", "v2", "absent")}
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech/caption.json").write_text(json.dumps(said))
    return tmp_path / "speech"


def test_a_published_data_set_without_evaluation_videos(folder, speech, tmp_path):
    (tmp_path / "htm_align.json").write_text(json.dumps({"v1": [[1, 2.0, 3.0, "a"]]}))
    (tmp_path / "held.txt").write_text("v2\nv9\n")
    common = [f"--input={speech}", "--dataset=howto100m", f"--videos={folder}", "--fps=2", "--processes=1"]
    exclude = f"{tmp_path / 'htm_align.json'},{tmp_path / 'held.txt'}"
    result = command(*common, f"--exclude={exclude}", f"--output={tmp_path / 'a'}")
    assert result.returncode == 0, result.stderr
    store = VideoStore(tmp_path / "a")
    assert store.keys == ("v0",) and store.record(0).narrations[0].text == "I stir" and store.splits == {"train": 1}
    for words in ("evaluation video of HTM-Align, kept out", "evaluation video of held.txt, kept out", "not found"):
        assert f"left out 1: {words}" in result.stdout.replace("its file was ", ""), words
    assert "note on" not in result.stdout
    summary = prepare(Options(str(tmp_path / "b"), str(speech), str(folder), dataset="howto100m", processes=0))
    assert VideoStore(tmp_path / "b").keys == ("v0", "v1", "v2")
    assert summary.noted.counts() == {"no evaluation videos were taken out, as training needs": 1}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"dataset": "howto100m"}, "no file: --videos names the folder"),
        ({"dataset": "howto100m", "classes": "x.txt"}, "howto100m has its own classes"),
        ({"dataset": "howto100m", "exclude": ("absent.txt",)}, "absent.txt: no such file"),
        ({"dataset": "howto100m", "option": ("caption=x",)}, "did you mean 'captions'"),
        ({"dataset": "howto100m", "option": ("captions=other.json",)}, "other.json"),
        ({"dataset": "hmdb51", "option": ("fold=two",)}, "fold=two: a whole number"),
        ({"dataset": "crosstask", "option": ("annotated=no",)}, "annotated=no: true or false"),
        ({"dataset": "internvid", "option": ("durations=x",)}, "name=value for internvid"),
        ({"dataset": "frame_targets"}, "needs --option=dataset=... and --option=info=..."),
        ({"dataset": "howto100m", "unit": "segment"}, "--unit=segment: is not for --dataset"),
        ({"split": "train"}, "--split=train: is for --dataset"),
    ],
)
def test_wrong_options_of_a_data_set(changes, words, speech, tmp_path):
    with pytest.raises(VtjaxError, match=words):
        prepare(Options(str(tmp_path / "out"), str(speech), **changes))


def test_records_may_be_given(folder, tmp_path):
    records = [VideoRecord("x", "x", "here", path=folder / "v1.mp4"), VideoRecord("y", "y", "list:4")]
    summary = prepare(Options(str(tmp_path / "out"), making=EXACT, processes=0), records, ("c",))
    assert VideoStore(tmp_path / "out").keys == ("x",)
    assert summary.problems.counts() == {"its file was not found": 1}
    with pytest.raises(VtjaxError, match="two videos have the id 'x'"):
        prepare(Options(str(tmp_path / "two"), making=EXACT, processes=0), [records[0], records[0]])


def test_plans_spread_a_few_videos_and_bound_many(tmp_path):
    videos = [VideoRecord(str(i), str(i), "", path=tmp_path) for i in range(3000)]
    for count, shards in ((1, 1), (10, 10), (100, 15), (3000, 47)):
        plan = make_plan(tmp_path, videos[:count], (), EXACT)
        assert plan.shards == shards and [v for s in range(shards) for v in plan.of(s)] == videos[:count]
