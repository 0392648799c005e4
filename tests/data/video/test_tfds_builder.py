"""The TFDS builder makes the same examples as `vtjax.prepare`."""

import json

import numpy as np
import pytest

from vtjax.data.video.prepare import Options, prepare
from vtjax.data.video.sampling import Sampler
from vtjax.data.video.shards import Making
from vtjax.data.video.source import read_clip
from vtjax.data.video.store import VideoStore
from vtjax.errors import VtjaxError

tfds = pytest.importorskip("tensorflow_datasets")


def test_the_same_examples_as_prepare(video, tmp_path):
    from vtjax.data.video.tfds_builder import TfdsVideos, VideoFolder

    root = tmp_path / "mine"
    root.mkdir()
    rows = ["video,label,split"]
    for index in range(5):
        video.write(root / f"{index}.mp4", 16 + index)
        rows.append(f"{index}.mp4,{'ab'[index % 2]},{'test' if index == 4 else ''}")
    (root / "bad.mp4").write_bytes(b"x" * 99)
    (root / "list.csv").write_text("\n".join([*rows, "bad.mp4,a,"]))
    (root / "vtjax.json").write_text(json.dumps({"list": "list.csv", "fps": 5, "size": 32, "codec": "png"}))

    builder = VideoFolder(data_dir=tmp_path / "tfds")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    assert builder.problems.counts() == {"not a media file, or its header is damaged": 1}
    train = TfdsVideos(tfds.builder_from_directory(builder.data_path).as_data_source("train"))
    test = TfdsVideos(builder.as_data_source("test"))
    assert (len(train), len(test)) == (4, 1)

    making = Making(fps=5, size=32, codec="png")
    prepare(Options(str(tmp_path / "out"), str(root / "list.csv"), making=making, processes=0))
    store = VideoStore(tmp_path / "out")
    wanted = {store.record(i).id: i for i in range(len(store))}
    for source in (train, test):
        for index in range(len(source)):
            record = source.record(index)
            same = wanted.pop(record.id)
            assert record == store.record(same)
            ours, theirs = source.open(index), store.open(same)
            assert np.array_equal(ours.times, theirs.times)
            assert np.array_equal(ours.frames(range(len(ours))), theirs.frames(range(len(theirs))))
    assert not wanted
    assert read_clip(train[2], Sampler("uniform", 3)).frames.shape == (3, 32, 42, 3)


def test_beam_makes_the_same_examples(video, tmp_path):
    pytest.importorskip("apache_beam")
    from vtjax.data.video.tfds_builder import TfdsVideos, VideoFolder

    root = tmp_path / "mine"
    root.mkdir()
    for index in range(4):
        video.write(root / f"{index}.mp4", 16 + index)
    (root / "bad.mp4").write_bytes(b"x" * 99)
    found = []
    for beam in (False, True):
        (root / "vtjax.json").write_text(json.dumps({"fps": 5, "size": 32, "codec": "png", "beam": beam}))
        builder = VideoFolder(data_dir=tmp_path / f"tfds{beam}")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
        source = TfdsVideos(builder.as_data_source("train"))
        found.append({source.record(i).id: source.open(i).frames([0, 5]) for i in range(len(source))})
    assert set(found[0]) == set(found[1]) == set("0123")
    assert all(np.array_equal(found[0][key], found[1][key]) for key in "0123")


@pytest.mark.parametrize(
    "text, words", [(None, "no such file"), ("{", "not JSON"), ('{"fsp": 2}', "'fsp': did you mean 'fps'")]
)
def test_settings(text, words, tmp_path):
    from vtjax.data.video import tfds_builder

    if text is not None:
        (tmp_path / "vtjax.json").write_text(text)
    with pytest.raises(VtjaxError, match=words):
        tfds_builder._settings(tmp_path / "vtjax.json")
