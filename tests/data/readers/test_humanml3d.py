"""HumanML3D's folder layout, with one clip for each thing that can be wrong in it."""

import numpy as np
import pytest

from vtjax.data.motion.clip import Caption
from vtjax.data.readers.humanml3d import Coverage, parse_line, read_humanml3d, read_split, read_texts, segment
from vtjax.errors import Problems, VtjaxError

NAN = float("nan")


@pytest.mark.parametrize(
    "bounds, expected",
    [
        ((0.0, 0.0), (None, None)),
        ((NAN, NAN), (None, None)),
        ((NAN, 3.0), (0.0, 3.0)),
        ((2.0, 5.0), (2.0, 5.0)),
        ((5.0, 2.0), (2.0, 5.0)),
        ((3.0, 3.0), (None, None)),
    ],
)
def test_segment_rule(bounds, expected):
    assert segment(*bounds) == expected


def test_lines():
    line = parse_line("a man #1 walks#a/DET man/NOUN walk/VERB#nan#4.5\n", 2, "f")
    assert (line.index, line.text, line.start, line.end) == (2, "a man #1 walks", 0.0, 4.5)
    for text, words in (
        ("no fields", "caption#tokens#start#end"),
        ("a#b#x#1", "must be seconds"),
        (" #b#0#0", "empty caption"),
        ("a#b#-1#1", "negative time"),
    ):
        with pytest.raises(VtjaxError, match=f"here:3: .*{words}"):
            parse_line(text, 0, "here:3")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "new_joint_vecs").mkdir()
    (tmp_path / "texts").mkdir()

    def add(key, rows, lines, width=263):
        if rows is not None:
            np.save(tmp_path / f"new_joint_vecs/{key}.npy", rng.normal(size=(rows, width)))
        if lines is not None:
            (tmp_path / f"texts/{key}.txt").write_text("\n".join(lines) + "\n")

    add("000001", 99, ["a walks#x#0.0#0.0", "#x#0.0#0.0", "b runs#x#4.0#1.5", "late#x#7.0#9.0", "bow#x#4.2#4.9"])
    add("000002", 20, ["short#x#0.0#0.0"])
    add("000003", None, ["no motion#x#0#0"])
    add("000004", 50, None)
    add("000005", 50, ["kit#x#0#0"], width=251)
    add("007975", 60, ["bad#x#0#0"])
    bad = np.load(tmp_path / "new_joint_vecs/007975.npy")
    bad[5] = np.nan
    np.save(tmp_path / "new_joint_vecs/007975.npy", bad)
    add("000006", 60, ["cut#x#0#0"])
    cut = (tmp_path / "new_joint_vecs/000006.npy").read_bytes()
    (tmp_path / "new_joint_vecs/000006.npy").write_bytes(cut[:-8])
    ids = ["000001", "000002", "000003", "000004", "000005", "007975", "000006"]
    for split in ("train", "test"):
        (tmp_path / f"{split}.txt").write_text("\n".join(ids) + "\n")
    return tmp_path


def test_train_is_filtered_and_every_loss_is_counted(folder):
    problems, coverage = Problems(), Coverage("train")
    (clip,) = read_humanml3d(folder, "train", problems=problems, coverage=coverage)
    # The empty caption keeps its place: 'b runs' is caption 2 of the unfiltered list.
    assert clip.captions == (
        Caption("a walks", index=0),
        Caption("b runs", (), 1.5, 4.0, index=2),
    )
    assert clip.key == "000001" and clip.features.shape == (99, 263) and clip.features.dtype == np.float32
    assert problems.counts() == {
        "train caption outside 2 to 10 s": 2,
        "empty caption": 1,
        "empty segment": 1,
        "no usable caption": 1,
        "listed in train, but its new_joint_vecs file is missing": 1,
        "listed in train, but its texts file is missing": 1,
        "features must have the shape [frames, 263]": 1,
        "known bad file of HumanML3D: NaN after processing": 1,
        "unreadable motion file": 1,
    }
    counts = (coverage.listed, coverage.annotated, coverage.on_disk, coverage.used, coverage.rows, coverage.rows_used)
    assert counts == (7, 6, 6, 1, 8, 2)
    assert "7 listed, 6 annotated, 6 motions on disk, 1 used; 2 of 8 captions used" in coverage.report()


def test_test_split_is_never_filtered_by_length(folder):
    clips = list(read_humanml3d(folder, "test", problems=Problems()))
    assert [c.key for c in clips] == ["000001", "000002"]
    assert [c.text for c in clips[0].captions] == ["a walks", "b runs", "bow"]


def test_times_are_clamped_to_the_clip(folder):
    (folder / "texts/000001.txt").write_text("x#t#1.0#30.0\n")
    (folder / "train.txt").write_text("000001\n")
    (clip,) = read_humanml3d(folder, "train", problems=Problems())
    assert (clip.captions[0].start, clip.captions[0].end) == (1.0, 5.0)


def test_split_files(tmp_path):
    for text, words in (("", "is empty"), ("a\nb\na\n", "'a' is listed twice")):
        (tmp_path / "s.txt").write_text(text)
        with pytest.raises(VtjaxError, match=words):
            read_split(tmp_path / "s.txt")
    with pytest.raises(VtjaxError, match="no such split file"):
        read_split(tmp_path / "absent.txt")
    with pytest.raises(VtjaxError, match="no folder new_joint_vecs"):
        list(read_humanml3d(tmp_path, "s", problems=Problems()))


def test_texts_without_problems_raise_with_line(tmp_path):
    (tmp_path / "t.txt").write_text("ok#x#0#0\n\nbroken\n")
    with pytest.raises(VtjaxError, match="t.txt:3"):
        read_texts(tmp_path / "t.txt")


def test_real_sample_is_read(shared_data, tmp_path):
    sample = np.load(shared_data / "motion/humanml3d_sample/new_joint_vecs_012314.npy")
    (tmp_path / "new_joint_vecs").mkdir()
    (tmp_path / "texts").mkdir()
    np.save(tmp_path / "new_joint_vecs/012314.npy", sample)
    (tmp_path / "texts/012314.txt").write_text("someone moves#x#0.0#0.0\n")
    (tmp_path / "test.txt").write_text("012314\n")
    (clip,) = read_humanml3d(tmp_path, "test", problems=Problems())
    np.testing.assert_array_equal(clip.features, sample.astype(np.float32))
