"""Sources of every kind through a stream to a report; a real video; class files; wrong use."""

import io
import json
import os
import threading
import types

import live_model as small
import numpy as np
import pytest
from page_reader import PageReader

from vtjax import arguments
from vtjax.config import Experiment
from vtjax.data.video.decode import VideoReader
from vtjax.data.video.sampling import rate_grid
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad import embed, predict, recording, sources
from vtjax.methods.ovoad.stream import LiveScorer

CLASSES = ["cut", "pour", "run"]


@pytest.fixture(scope="module")
def model():
    return small.small_scorer(small.small_config(fusion__clip=0.5))  # as in test_stream.py: compiled once for both


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """A run whose scorer is the small random model."""
    scorer, params = model
    monkeypatch.setattr(embed, "open_scorer", lambda experiment, work, dtype=None: scorer)
    experiment = Experiment(name="ovoad", method=scorer.config)
    opened = embed.Opened(experiment, tmp_path / "run")
    return types.SimpleNamespace(experiment=experiment, work=tmp_path / "run", params=params, model=opened)


def clip_of(path, frames, fps, container=None):
    import av

    with av.open(path, "w", format=container) as out:
        stream = out.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (8, 4, 6, 3), np.uint8)
    return np.repeat(still, 12, axis=0).repeat(16, axis=1).repeat(16, axis=2)  # 96 frames of 64 x 96


def test_a_file_is_scored_as_its_grid_of_frames(run, model, frames, tmp_path):
    clip_of(str(tmp_path / "clip.mp4"), frames, 24)
    found = predict.predict(run, video=str(tmp_path / "clip.mp4"), classes=CLASSES)
    scorer, params = model
    with VideoReader(tmp_path / "clip.mp4") as reader:
        times, picks = rate_grid(reader, 4.0)
        encoded = scorer.encoder.features(reader.frames(picks))
    np.testing.assert_allclose(found.times, times)
    live = LiveScorer(scorer, params, CLASSES, fps=4.0)
    expected = np.stack([s.scores for row in encoded for s in live.push(row)])
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert found.classes == ("background", *CLASSES) and "mean nothing" in found.notes[0]
    assert [t for t, _ in found.pictures] == [0.125, 1.125, 2.125, 3.125] and found.pictures[0][1].shape == (64, 96, 3)


def test_a_real_video_with_a_class_list_leaves_a_report(run, shared_data, tmp_path, capsys):
    path = shared_data / "videos/actions/v_SoccerJuggling_g23_c01.avi"
    (tmp_path / "classes.txt").write_text("juggling a ball\nwaving\nrunning\n\n")
    flags = types.SimpleNamespace(
        video=str(path), classes=str(tmp_path / "classes.txt"), fps=None, raw_size="", seconds=0.0, dtype=""
    )
    given = arguments.from_flags(predict.predict, flags)
    answer = predict.answer(run, given, predict.predict(run, **given, each=predict.watch(print)))
    (tmp_path / "out").mkdir()
    answer.write(tmp_path / "out" / "prediction")
    record = json.loads((tmp_path / "out/prediction.json").read_text())
    with VideoReader(path) as reader:
        assert len(record["steps"]) == len(rate_grid(reader, 4.0)[0])
    assert record["classes"] == ["background", "juggling a ball", "waving", "running"]
    page = PageReader((tmp_path / "out/prediction.html").read_text())
    assert page.tags.count("image") >= 2 and "juggling a ball" in page.text
    assert "these scores mean nothing" in page.text and "these scores mean nothing" in record["notes"][0]
    assert answer.lines[0].startswith("note: The weights")
    assert capsys.readouterr().out.count(" s  ") >= len(record["steps"]) // 4 - 1
    rows = (tmp_path / "out/prediction.csv").read_text().splitlines()
    assert rows[0] == "class,start,end,mean score" and len(rows) == 1 + len(record["segments"])
    ends = [s["end"] for s in record["segments"]]
    assert ends == sorted(ends) and {s["name"] for s in record["segments"]} <= set(record["classes"])


def test_a_pipe_gives_what_the_file_gives(model, frames, tmp_path):
    clip_of(str(tmp_path / "clip.mkv"), frames, 24, "matroska")
    scorer, params = model

    end, begin = os.pipe()
    content = (tmp_path / "clip.mkv").read_bytes()
    writer = threading.Thread(target=lambda: (os.fdopen(begin, "wb").write(content)), daemon=True)
    writer.start()
    tables = []
    for source in (sources.PipeSource(os.fdopen(end, "rb")), sources.FileSource(tmp_path / "clip.mkv")):
        live = LiveScorer(scorer, params, CLASSES)
        tables.append(np.stack([s.scores for s in live.run(source)]))
    count = min(map(len, tables))
    assert count >= 15 and abs(len(tables[0]) - len(tables[1])) <= 1
    np.testing.assert_allclose(tables[0][:count], tables[1][:count], atol=1e-5)


def test_raw_frames_and_features(run, model, frames, tmp_path, monkeypatch):
    scorer, _ = model
    content = io.BytesIO(frames.tobytes())
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=content))
    raw = predict.predict(run, video="-", classes=CLASSES, fps=24.0, raw_size=(64, 96))
    rows = scorer.encoder.features(frames[3::6])  # the earlier of the two frames at 0.125 s
    np.save(tmp_path / "rows.npy", rows.astype(np.float16))
    features = predict.predict(run, video=str(tmp_path / "rows.npy"), classes=CLASSES, fps=4.0)
    assert len(raw.steps) == len(features.steps) == 16 and not features.pictures
    np.testing.assert_allclose(raw.scores, features.scores, atol=2e-2)  # float16 features
    short = predict.predict(run, video=str(tmp_path / "rows.npy"), classes=CLASSES, fps=4.0, seconds=1.0)
    assert len(short.steps) == 5
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(frames.tobytes()[:-7])))
    with pytest.raises(VtjaxError, match="ends within a frame"):
        predict.predict(run, video="-", classes=CLASSES, fps=24.0, raw_size=(64, 96))


def test_without_a_class_list_the_runs_own(run, tmp_path):
    np.save(tmp_path / "rows.npy", small.features(3))
    found = predict.predict(run, video=str(tmp_path / "rows.npy"), fps=4.0)
    assert len(found.classes) == 16 and found.classes[0] == "background"


class Interrupted(sources.Source):
    """Two seconds of frames, then the keyboard."""

    name, fps, live = "camera 0", 4.0, True

    def __iter__(self):
        for row in small.features(8):
            yield None, row
        raise KeyboardInterrupt


def test_the_keyboard_ends_a_live_source_and_keeps_what_came(model):
    live = LiveScorer(*model, CLASSES)
    found = recording.record(live, Interrupted())
    assert len(found.steps) == 8 and found.notes == ["Stopped from the keyboard."]
    Interrupted.live = False
    with pytest.raises(KeyboardInterrupt):
        recording.record(live, Interrupted())


def test_a_camera_that_is_faster_than_the_machine_is_told(model, monkeypatch):
    class Camera(sources.FeatureSource):
        paced = True

        def __init__(self):
            self.name, self.fps, self.features = "camera 0", 4.0, small.features(20)

    clock = iter(range(1000))
    monkeypatch.setattr(recording.time, "monotonic", lambda: float(next(clock)))
    found = recording.record(LiveScorer(*model, CLASSES), Camera())
    assert found.notes == ["Scoring was slower than the source, and 15 s behind it at the end."]
    Camera.paced = False
    assert recording.record(LiveScorer(*model, CLASSES), Camera()).notes == []


class Gap(sources.Source):
    name = "camera 0"

    def __iter__(self):
        for i, row in enumerate(small.features(40)):
            yield i / 4 + (30 if i >= 20 else 0), row


def test_a_gap_is_drawn_apart_and_told(model):
    found = recording.record(LiveScorer(*model, CLASSES), Gap())
    assert "1 gaps of more than 8 s" in found.notes[0]
    page = PageReader(recording.recording_page(found).html())
    assert page.tags.count("svg") == 2


def test_segments_are_stretches_of_one_best_class():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9], [0.6, 0.4]])
    times = np.array([0.125, 0.375, 0.625, 0.875, 9.125, 9.375])
    found = recording.segments(("a", "b"), times, scores)
    spans = [("a", 0, 0.5), ("b", 0.5, 1.0), ("b", 9.0, 9.25), ("a", 9.25, 9.5)]
    assert [(s.name, s.start, s.end) for s in found] == spans
    assert found[1].score == pytest.approx(0.75) and recording.segments(("a",), np.zeros(0), np.zeros((0, 1))) == []


def test_class_files(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("\ufeffopen the door\n close it \n\n", encoding="utf-8")
    entries = arguments.LinesOf("class name", distinct=True)
    assert arguments.read_lines(str(path), "classes", entries) == ["open the door", "close it"]
    for content, message in (
        (b"", "list is empty"), (b"a\n\nb", "c.txt:2: empty line"),
        (b"a\nb\nA\n", "c.txt:3: 'A' is listed twice"),
        (b"\xff\xfe\x00", "not a text file"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(VtjaxError, match=message):
            arguments.read_lines(str(path), "classes", entries)
    with pytest.raises(VtjaxError, match="no such file"):
        arguments.read_lines(str(tmp_path / "d.txt"), "classes", entries)


def test_wrong_use_is_told(run, tmp_path):
    rows = str(tmp_path / "rows.npy")
    np.save(rows, small.features(3, width=20))
    for options, message in (
        (dict(video=rows), "rate of the features is unknown; give --fps"),
        (dict(video=rows, fps=4.0, classes=CLASSES), "features of 20 values, but the model takes 16"),
        (dict(video=rows, fps=4.0, classes=[]), "class list is empty"),
        (dict(video=rows, fps=4.0, classes=["a", "A"]), "listed twice"),
        (dict(video=rows, fps=-1.0, classes=CLASSES), "fps=-1.0"),
        (dict(video="-", raw_size=(4, 4)), "frame rate of raw frames is unknown"),
        (dict(video=str(tmp_path / "no.mp4")), "no such file; a file, camera:0 or - is expected"),
        (dict(video=rows, raw_size=(4, 4)), "raw frames are read from standard input"),
        (dict(video="camera:93"), "camera 93"),
        (dict(video=rows, fps=4.0, seconds=-1), "seconds=-1"),
    ):
        with pytest.raises(VtjaxError, match=message):
            predict.predict(run, **options)
    np.save(rows, np.zeros((3, 2), int))
    with pytest.raises(VtjaxError, match="features float"):
        predict.predict(run, video=rows, fps=4.0)
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(VtjaxError, match="x.mp4"):
        predict.predict(run, video=str(tmp_path / "x.mp4"))
    flags = dict(video="a.mp4", classes="", fps=None, raw_size="640", seconds=0.0, dtype="")
    with pytest.raises(VtjaxError, match="WIDTHxHEIGHT"):
        arguments.from_flags(predict.predict, types.SimpleNamespace(**flags))
    with pytest.raises(VtjaxError, match="--video is needed"):
        arguments.from_flags(predict.predict, types.SimpleNamespace(**{**flags, "video": ""}))
