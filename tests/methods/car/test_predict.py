"""Search: both directions against direct cosines, over the run's data and over files."""

import json

import commands
import numpy as np
import pytest

import vtjax
from vtjax.data.motion.features import features_to_joints
from vtjax.errors import VtjaxError
from vtjax.methods.car import data, predict
from vtjax.methods.car.embed import open_embedder
from vtjax.worlds.drawn import cache_folder


@pytest.fixture(scope="module")
def run(trained):
    return vtjax.load(trained)


@pytest.fixture(scope="module")
def clips(run):
    store = data.open_store(run.experiment.method.data, cache_folder(run.experiment, run.work))
    return [store[i] for i in store.split("test")]


@pytest.fixture(scope="module")
def embedder(run):
    return open_embedder(run.experiment.method, run.work / "assets")


def cosines(query, gallery):
    return [float(q @ query / np.sqrt((q @ q) * (query @ query))) for q in gallery.astype(np.float64)]


def test_a_text_ranks_the_motions_of_the_test_split(run, clips, embedder):
    text = "A person walks forward, then jumps."
    query = embedder.texts(run.params, [text])[0].astype(np.float64)
    scores = cosines(query, embedder.motions(run.params, [c.features for c in clips]))
    expected = sorted(zip(scores, (c.key for c in clips), strict=True), reverse=True)
    ranked = run.predict(text=text, top=7)
    assert [m.name for m in ranked] == [key for _, key in expected[:7]]
    assert [m.score for m in ranked] == pytest.approx([score for score, _ in expected[:7]], abs=1e-5)
    best = next(c for c in clips if c.key == ranked[0].name)
    assert ranked[0].text == best.captions[0].text and ranked[0].bounds == best.bounds
    np.testing.assert_array_equal(ranked[0].motion, best.features)
    assert len(run.predict(text=text, top=1000, split="val")) == 32


def test_a_second_query_pays_for_its_text_alone(trained, monkeypatch):
    """The model is opened once for each Run, and the motions that were searched stay embedded."""
    run = vtjax.load(trained)
    first = run.predict(text="A person jumps.")
    for place in ("vtjax.methods.car.embed.open_embedder", "vtjax.methods.car.embed.Embedder.motions"):
        monkeypatch.setattr(place, None)
    again = run.predict(text="A person jumps.")
    assert [(m.name, m.score) for m in again] == [(m.name, m.score) for m in first]
    assert run.predict(text="A person waves.")[0].score != first[0].score
    run.model.embedder = None
    with pytest.raises(TypeError, match=r"predict\(spilt=...\): no such argument; did you mean 'split'"):
        run.predict(text="a", spilt="val")


def test_a_motion_ranks_texts(run, clips, embedder):
    texts = ["A person walks.", "A person sits down.", "A person jumps up.", "A person waves.", "A person kicks."]
    query = embedder.motions(run.params, [clips[3].features])[0].astype(np.float64)
    scores = cosines(query, embedder.texts(run.params, texts))
    expected = sorted(zip(scores, texts, strict=True), reverse=True)
    ranked = run.predict(motion=clips[3].key, texts=texts)
    assert [m.text for m in ranked] == [text for _, text in expected]
    assert [m.score for m in ranked] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert [m.text for m in run.predict(motion=clips[3].key, texts=texts, top=2)] == [t for _, t in expected[:2]]


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory):
    """Joints of some clips as .npz, .npy and nested files."""
    path = tmp_path_factory.mktemp("motions")
    (path / "deep").mkdir()
    joints = [features_to_joints(c.features, last_frame=True).astype(np.float32) for c in clips[:4]]
    np.savez(path / "some.npz", first=joints[0], second=joints[1])
    np.save(path / "third.npy", joints[2])
    np.save(path / "deep" / "fourth.npy", joints[3])
    return path


def test_a_folder_of_joint_arrays_is_searched(run, folder, clips):
    text = "A person walks forward, then jumps."
    ranked = run.predict(text=text, motions=str(folder), fps=20.0)
    own = {m.name: m.score for m in run.predict(text=text, top=1000)}
    names = {m.name.split("/")[-1]: m.score for m in ranked}
    assert set(names) == {"first", "second", "third", "fourth"}
    for name, clip in zip(("first", "second", "third", "fourth"), clips, strict=False):
        # Bone lengths are brought to the standard skeleton on the way, so the score is near and not equal.
        assert names[name] == pytest.approx(own[clip.key], abs=0.2), name
    assert [m.score for m in ranked] == sorted(names.values(), reverse=True)
    again = run.predict(text=text, motions=str(folder), fps=20.0)
    assert [(m.name, m.score) for m in again] == [(m.name, m.score) for m in ranked]
    one = run.predict(motion=str(folder / "third.npy"), texts=["A person walks.", "A person jumps."], fps=20.0)
    assert len(one) == 2
    prepared = str(predict.open_motions(str(folder), cache_folder(run.experiment, run.work), fps=20.0).path)
    assert [m.name for m in run.predict(text=text, motions=prepared)] == [m.name for m in ranked]


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give one query"),
        ({"text": " "}, "give one query"),
        ({"text": "a", "motion": "b"}, "give one query"),
        ({"text": "a", "top": 0}, "top=0: at least one"),
        ({"text": "a", "split": "tset"}, "no split 'tset': did you mean 'test'"),
        ({"text": "a", "motions": "absent"}, "--motions=absent: no such file or folder"),
        ({"motion": "absent", "texts": ["a"]}, "--motion=absent: neither a file nor the key of a motion"),
        ({"motion": "absent"}, "needs texts to rank, none of them empty"),
        ({"motion": "absent", "texts": ["a", " "]}, "needs texts to rank, none of them empty"),
    ],
)
def test_wrong_queries(run, options, message):
    with pytest.raises(VtjaxError, match=message):
        run.predict(**options)


def bad_motions(folder, joints):
    np.save(folder / "nan.npy", np.where(np.arange(len(joints))[:, None, None] == 5, np.nan, joints))
    np.save(folder / "wrong_joints.npy", joints[:, :19])
    np.save(folder / "one_frame.npy", joints[:1])
    np.save(folder / "whole.npy", joints)
    whole = (folder / "whole.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(whole[: len(whole) // 2])
    (folder / "whole.npy").unlink()


def test_the_command_answers_and_refuses(run, trained, clips, tmp_path):
    """One process a case: a query over bad files, each of which is named, and one that works."""
    (tmp_path / "bad").mkdir()
    bad_motions(tmp_path / "bad", features_to_joints(clips[0].features, last_frame=True).astype(np.float32))
    main = ("-m", "vtjax.predict", f"--work_directory={trained}")
    result = commands.run(*main, "--text=a person walks", f"--motions={tmp_path / 'bad'}", "--fps=20")
    commands.refused(result, "nothing usable", "NaN", "19 joints", "1-frame clip", "truncated npy")
    (tmp_path / "texts.txt").write_text("A person walks.\n\nA person sits.\n")
    commands.refused(commands.run(*main, f"--motion={clips[0].key}", f"--texts={tmp_path / 'texts.txt'}"), "texts.txt:2: empty line")
    commands.refused(commands.run(*main, f"--motion={clips[0].key}", "--texts=absent.txt"), "--texts=absent.txt: no such file")
    commands.refused(commands.run(*main, "--txt=a"), "Unknown command line flag 'txt'")

    (tmp_path / "texts.txt").write_text("A person walks.\nA person sits.\n")
    arguments = (f"--motion={clips[0].key}", f"--texts={tmp_path / 'texts.txt'}", f"--output={tmp_path / 'out' / 'answer'}")
    result = commands.run(*main, *arguments)
    assert result.returncode == 0, result.stderr
    answer = json.loads((tmp_path / "out" / "answer.json").read_text())
    expected = run.predict(motion=clips[0].key, texts=["A person walks.", "A person sits."])
    assert [a["text"] for a in answer["answers"]] == [m.text for m in expected] and answer["query"] == clips[0].key
    assert [a["score"] for a in answer["answers"]] == pytest.approx([m.score for m in expected], abs=1e-5)
    page = (tmp_path / "out" / "answer.html").read_text()
    assert "<svg" in page and "A person sits." in page and expected[0].text in result.stdout
