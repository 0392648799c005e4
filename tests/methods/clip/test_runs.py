"""Whole runs at the smallest size: the world through train, evaluate, report and predict; a folder of mp4 and a CSV."""

import json

import av
import numpy as np
import pytest

from vtjax.config import load_config_file
from vtjax.convert import forward
from vtjax.data.video.container import VideoError
from vtjax.data.video.prepare import Options, prepare
from vtjax.data.video.shards import Making
from vtjax.encoders import sizes
from vtjax.errors import VtjaxError
from vtjax.methods import load_experiment
from vtjax.methods.clip import pipeline
from vtjax.methods.clip.text import open_tokenizer
from vtjax.nn.clip import ClipConfig, TextConfig
from vtjax.nn.vit import VisionConfig
from vtjax.runs import Run, run_experiment
from vtjax.text.clip_tokenizer import ClipTokenizer
from vtjax.text.tokenizer import WordTokenizer
from vtjax.weights.clip import load_clip, save_clip_hf
from vtjax.weights.layout import Options as Conversion
from vtjax.worlds.workshop_clips import WorkshopClips

WORDS = ("red", "blue")


def test_smoke_run_is_evaluated_and_reported(world_run):
    results = world_run.evaluate()
    names = {r.protocol for r in results}
    assert {"zero-shot/held-out pairs/all classes", "zero-shot/unseen renderings/verbs", "retrieval/all/t2v"} <= names
    page = world_run.method.page(world_run, results).html()
    titles = ("Zero-shot classification", "Worst mistakes", "Which classes are confused", "Searches")
    for part in (*titles, "data:image/png"):
        assert part in page


def test_clips_that_cannot_be_read_are_left_out_of_every_figure(world_run, monkeypatch):
    whole = Run(world_run.work).model.gallery(world_run.params)
    broken, opened = whole.rows.rows[1].index, WorkshopClips.open

    def open_clip(self, index):
        if index == broken:
            raise VideoError("clip 1", "no frame can be decoded")
        return opened(self, index)

    monkeypatch.setattr(WorkshopClips, "open", open_clip)
    run = Run(world_run.work)
    scores = run.model.gallery(run.params)
    assert scores.left_out == len(scores.unread) == 1 and broken not in [row.index for row in scores.rows.rows]
    np.testing.assert_array_equal(scores.videos, np.delete(whole.videos, 1, axis=0))
    np.testing.assert_array_equal(scores.labels, np.delete(whole.labels, 1))
    results = run.evaluate()
    assert all("1 clips cannot be read and are left out" in r.notes for r in results)
    assert {r.items for r in results if r.protocol.startswith("retrieval/all")} == {len(whole.labels) - 1}
    monkeypatch.setattr(WorkshopClips, "open", lambda *_: open_clip(None, broken))
    with pytest.raises(VtjaxError, match="no video can be read(.|\n)*no frame can be decoded"):
        Run(world_run.work).evaluate()


def test_a_finished_run_is_not_trained_again(world_run):
    experiment = load_experiment(world_run.work / "config.json")
    before = (world_run.work / "train" / "done.json").stat().st_mtime_ns
    assert run_experiment(experiment, world_run.work).finished
    assert (world_run.work / "train" / "done.json").stat().st_mtime_ns == before


def write_clip(path, colour, frames=12):
    """A square of one colour that moves to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=6)
        stream.width = stream.height = 48
        stream.pix_fmt, stream.options = "yuv420p", {"threads": "1"}
        for i in range(frames):
            pixels = np.full((48, 48, 3), 40, np.uint8)
            pixels[16:32, 2 * i : 2 * i + 16] = (220, 30, 30) if colour == "red" else (30, 30, 220)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def my_videos(tmp_path_factory):
    """Six mp4 and a list of them, as the README tells."""
    root = tmp_path_factory.mktemp("mine")
    lines = ["video,caption,label,split"]
    for i in range(6):
        colour = WORDS[i % 2]
        write_clip(root / f"clip{i}.mp4", colour)
        lines.append(f"clip{i}.mp4,a {colour} square moves to the right {i},{colour},{'train' if i < 4 else 'test'}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def own_run(tiny, my_videos, tmp_path_factory):
    work = tmp_path_factory.mktemp("own")
    made = Making(fps=4.0, size=40)
    summary = prepare(Options(str(work / "prepared"), str(my_videos / "list.csv"), making=made, processes=0))
    assert summary.meta["splits"] == {"test": 2, "train": 4}
    experiment = tiny("videos")
    experiment.method.data.source = str(work / "prepared")
    assert run_experiment(experiment, work / "run").finished
    return Run(work / "run")


def test_own_videos_are_trained_on_and_evaluated(own_run):
    names = {r.protocol: r for r in own_run.evaluate()}
    assert names["zero-shot/all clips/all classes"].items == 2 and names["retrieval/all/v2t"].items == 2
    assert own_run.method.page(own_run, list(names.values())).save(own_run.work / "report.html").is_file()


def test_sentence_over_files_and_file_over_sentences(own_run, my_videos, tmp_path):
    (my_videos / "broken.mp4").write_bytes(b"not a video")
    found = own_run.predict(text="a red square", videos=str(my_videos), window=1.0, top=50)
    assert {m.name for m in found} == {str(my_videos / f"clip{i}.mp4") for i in range(6)}
    assert all(m.end - m.start == pytest.approx(1.0) for m in found)
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    texts = ["a red square", "moves to the right", "a blue square jumps"]
    ranked = own_run.predict(video=str(my_videos / "clip0.mp4"), texts=texts)
    assert sorted(m.text for m in ranked) == sorted(texts)
    (problem,) = ranked.left_out.items
    assert problem.where == "jumps in 'a blue square jumps'" and "not learnt" in problem.reason
    assert {m.text for m in own_run.predict(video=str(my_videos / "clip0.mp4"))} == set(WORDS)
    given = {"text": "a red square", "video": "", "videos": str(my_videos), "top": 3}
    own_run.method.answer(own_run, given, own_run.predict(**given)).write(tmp_path / "answer")
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert len(answer["answers"]) == 3 and any("broken.mp4" in bad["where"] for bad in answer["left_out"])
    assert "data:image/png" in (tmp_path / "answer.html").read_text()


def test_a_second_search_embeds_the_text_alone(own_run, my_videos, monkeypatch):
    run = Run(own_run.work)
    searches = {"videos": str(my_videos), "window": 1.0}, {}
    first = [run.predict(text="a red square", **where) for where in searches]
    monkeypatch.setattr(run.model.embedder, "frames", lambda handle: pytest.fail("a clip is read again"))
    again = [run.predict(text="a red square", **where) for where in searches]
    assert again == first
    assert run.predict(text="moves to the right", videos=str(my_videos), window=1.0) != first[0]
    write_clip(my_videos / "clip0.mp4", "blue", frames=18)
    with pytest.raises(pytest.fail.Exception, match="read again"):  # the file is another one now
        run.predict(text="a red square", **searches[0])
    write_clip(my_videos / "clip0.mp4", "red")


@pytest.mark.parametrize(
    "query, words",
    [
        ({}, "give one query"),
        ({"text": "x", "video": "y"}, "give one query"),
        ({"video": "absent.mp4"}, "absent.mp4: no such file"),
        ({"text": "  "}, "give one query"),
        ({"text": "red", "top": 0}, "top=0"),
        ({"text": "red", "videos": "absent"}, "no such file or folder"),
        ({"text": "red", "split": "tset"}, "did you mean 'test'"),
        ({"text": "Zebras gallop!"}, r"learnt none of its words; it knows the \d+ of .*square"),
        ({"video": "broken.mp4", "texts": ["red"]}, "broken.mp4: not a video|broken.mp4: "),
        ({"video": "clip0.mp4", "texts": ["red", " "]}, "text 1 of 2 is empty"),
    ],
)
def test_queries_that_cannot_work(own_run, my_videos, monkeypatch, query, words):
    monkeypatch.chdir(my_videos)
    (my_videos / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(VtjaxError, match=words):
        own_run.predict(**query)


def test_published_weights_are_the_start(tmp_path, request):
    """Both towers and the scale equal the file's; sizes and tokenizer come from it."""
    import jax

    published = ClipConfig(8, VisionConfig(16, 8, 16, 1, 2, 32), TextConfig(514, 8, 16, 1, 2, 32))
    from vtjax.nn.clip import Clip

    model = Clip(published)
    images, ids = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1, 8), np.int32)
    params = jax.jit(model.init)(jax.random.key(3), images, ids)["params"]
    save_clip_hf(tmp_path / "clip", published, params)
    ClipTokenizer().save(tmp_path / "clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        experiment = load_config_file("configs/clip.py:finetune")
    experiment.method.model.pretrained = str(tmp_path / "clip")
    experiment.method.model.temporal_heads, experiment.method.model.temporal_layers = 2, 1
    found = sizes.sizes_of(experiment.method)
    assert found.vision == published.vision and found.text.context_length == 8 and found.embed_dim == 8
    planned = pipeline.abstract(experiment)
    shapes = jax.eval_shape(planned.init, jax.random.key(0), planned.batch_spec())
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    started = pipeline._start(experiment, empty)
    assert jax.tree.structure(started) == jax.tree.structure(empty)
    _, stored = load_clip(tmp_path / "clip")
    for name in ("vision", "text", "logit_scale"):
        jax.tree.map(np.testing.assert_array_equal, started[name], stored[name])
    # The same from what vtjax.convert makes of it, its vocabulary included.
    forward(str(tmp_path / "clip"), tmp_path / "converted", "auto", Conversion())
    experiment.method.model.pretrained = str(tmp_path / "converted")
    assert sizes.sizes_of(experiment.method) == found
    jax.tree.map(np.testing.assert_array_equal, pipeline._start(experiment, empty), started)
    tokenizer = open_tokenizer(experiment.method, found, tmp_path / "assets", corpus=["a"])
    assert tokenizer.fingerprint() == ClipTokenizer().fingerprint()
    assert not any(np.any(x) for x in jax.tree.leaves(started["temporal"]))
    assert jax.tree.map(np.shape, started) == jax.tree.map(np.shape, shapes)


def test_a_run_is_the_start_of_another(world_run, tmp_path):
    """config.train.initial with a work directory: its parameters, and the vocabulary that they were learnt for."""
    import jax

    experiment = load_experiment(world_run.work / "config.json")
    experiment.train.initial = str(world_run.work)
    data = experiment.method.data
    data.cache, data.world_seed = str(tmp_path), 1  # other captions, which would make another vocabulary
    task = pipeline.build(experiment, tmp_path / "next")
    ours, theirs = (
        open_tokenizer(experiment.method, sizes.load_sizes(work / "assets"), work / "assets")
        for work in (tmp_path / "next", world_run.work)
    )
    assert ours.fingerprint() == theirs.fingerprint() == task.transform.tokenizer.fingerprint()
    own = WordTokenizer.from_texts(task.source.texts(), experiment.method.text.vocab_size - 12)
    assert own.fingerprint() != ours.fingerprint()
    shapes = jax.eval_shape(task.init, jax.random.key(0), task.batch_spec())
    started = task.start(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    jax.tree.map(np.testing.assert_array_equal, started, world_run.params)
    experiment.method.model.temporal = "mean"
    planned = pipeline.abstract(experiment)
    shapes = jax.eval_shape(planned.init, jax.random.key(0), planned.batch_spec())
    with pytest.raises(VtjaxError, match="does not fit this model(.|\n)*temporal/"):
        pipeline._start(experiment, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))


@pytest.mark.parametrize(
    "folder, words",
    [("absent", "absent"), ("empty", "no config.json|no CLIP|model.safetensors"), ("run", "initial starts from a run")],
)
def test_folders_without_a_published_model(folder, words, world_run, tmp_path, request):
    (tmp_path / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        experiment = load_config_file("configs/clip.py:finetune")
    experiment.method.model.pretrained = str(world_run.work if folder == "run" else tmp_path / folder)
    with pytest.raises(VtjaxError, match=words):
        pipeline.abstract(experiment)


@pytest.mark.parametrize("variant", ["demo", "videos", "smoke"])
def test_variants_can_be_compiled_for(variant, request):
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        experiment = load_config_file(f"configs/clip.py:{variant}")
    planned = pipeline.abstract(experiment)
    params = jax.eval_shape(planned.init, jax.random.key(0), planned.batch_spec())
    metrics = jax.eval_shape(lambda p, b: planned.loss(p, b, jax.random.key(0), True), params, planned.batch_spec())
    assert metrics["loss"][0].shape == ()


@pytest.mark.parametrize("variant, millions", [("b32", 151.3), ("b16", 149.6), ("l14", 427.6)])
def test_published_sizes_have_the_published_number_of_parameters(variant, millions, request):
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(request.config.rootpath)
        experiment = load_config_file(f"configs/clip.py:{variant}")
    planned = pipeline.abstract(experiment)
    params = jax.eval_shape(planned.init, jax.random.key(0), planned.batch_spec())
    assert sum(x.size for x in jax.tree.leaves(params)) / 1e6 == pytest.approx(millions, abs=0.05)
