"""Lists of X-CLIP and ViFi-CLIP: the counts of alt.md 7.2, and bad lines."""

import pytest

from vtjax.data.readers.action_lists import PUBLISHED, action_list, hmdb51, ucf101
from vtjax.data.readers.class_lists import class_list

SHIPPED = {
    "hmdb_splits/val1": (1530, 51), "hmdb_splits/val2": (1530, 51), "hmdb_splits/val3": (1530, 51),
    "ucf_splits/val1": (3783, 101), "ucf_splits/val2": (3734, 101), "ucf_splits/val3": (3696, 101),
    "base2novel_hmdb_splits/base_val": (780, 26), "base2novel_hmdb_splits/novel_val": (750, 25),
    "base2novel_ucf_splits/base_val": (2088, 51), "base2novel_ucf_splits/novel_val": (1695, 50),
    # alt.md says 14,083: the line ends; the last line has none.
    "k600_splits/ZS_split1_K600_eval": (14084, 160),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_counts_are_the_sheets(shared_data, name):
    records, coverage = action_list(shared_data / "recognition/splits" / f"{name}.txt")
    assert (len(records), len({r.label for r in records})) == SHIPPED[name] == PUBLISHED[f"{name}.txt"]
    assert not coverage.problems and not coverage.notes


def test_k600_zero_shot_folders(shared_data):
    records, _ = action_list(shared_data / "recognition/splits/k600_splits/ZS_split1_K600_eval.txt")
    parts = [r.id.split("/")[0] for r in records]
    shares = {part: parts.count(part) / len(parts) for part in ("train", "test", "val")}
    assert shares["train"] == pytest.approx(0.85, abs=0.02) and shares["test"] == pytest.approx(0.137, abs=0.01)
    assert sum(shares.values()) == 1


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_lists_equal_the_official_splits(shared_data, fold):
    root = shared_data / "recognition"
    for official, name, labels in ((hmdb51, "hmdb_splits", "hmdb_51"), (ucf101, "ucf_splits", "ucf_101")):
        source = root / "splits" / ("ucf101" if official is ucf101 else "hmdb51_official_splits.tar.gz")
        expected = {r.id: (r.label, r.class_name) for r in official(source, fold=fold)[0]}
        classes = class_list(root / f"{labels}_labels.csv")
        classes = sorted(classes) if official is hmdb51 else classes
        listed, coverage = action_list(root / "splits" / name, split=f"val{fold}", classes=classes)
        assert {r.id: (r.label, r.class_name) for r in listed} == expected and not coverage.notes


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_the_shipped_hmdb_label_list_is_in_another_order_than_the_lists(shared_data, fold):
    """hmdb_51_labels.csv exchanges kick and kick ball, sword and sword exercise: 120 of 1,530 videos."""
    root = shared_data / "recognition"
    listed, coverage = action_list(root / "splits/hmdb_splits", split=f"val{fold}", classes=root / "hmdb_51_labels.csv")
    assert list(coverage.notes.counts().values()) == [120] and "another order" in coverage.report()
    wrong = {p.where.split(": ")[-1] for p in coverage.notes.items}
    assert wrong == {
        f"{a!r} in the name, {b!r} by the label"
        for pair in (("kick", "kick ball"), ("sword", "sword exercise")) for a, b in (pair, pair[::-1])
    }  # fmt: skip
    listed, coverage = action_list(root / "splits/ucf_splits", split=f"val{fold}", classes=root / "ucf_101_labels.csv")
    assert not coverage.notes


def test_real_clips_are_found(shared_data):
    records, coverage = action_list(
        shared_data / "recognition/splits/hmdb_splits/val1.txt", videos=shared_data / "videos/actions"
    )
    found = [r for r in records if r.path]
    assert coverage.on_disk == len(found) >= 1 and all("_wave_" in r.id and r.path.is_file() for r in found)


def test_bad_lines(tmp_path):
    folder = tmp_path / "hmdb_splits"
    folder.mkdir()
    (folder / "val1.txt").write_text("a/b.mp4 0\nwith blank.mp4 1\nc.mp4\nd.mp4 7\ne.mp4 x\nf.mp4 -1\na/b.mp4 0\n")
    records, coverage = action_list(folder, split="val1", classes=("zero", "one", "two"))
    assert [(r.id, r.label, r.class_name) for r in records] == [("a/b", 0, "zero")]
    assert coverage.problems.counts() == {
        "'path label' with one blank is expected": 2, "the label is not in the class list": 2,
        "the label is not a number": 1, "the id is listed twice": 1,
    }  # fmt: skip
    assert coverage.problems.items[0].where.startswith(f"{folder}/val1.txt:2")
    assert coverage.notes.counts() == {"the list is not of the published length": 1, "classes without any video": 1}
