"""Video Localized Narratives: the shipped rows and clips, and bad rows."""

import json

import numpy as np
import pytest

from vtjax.data.readers.narratives import video_localized_narratives


@pytest.fixture
def folder(shared_data):
    return shared_data / "videollm/video_localized_narratives"


def test_the_shipped_rows(folder):
    records, coverage = video_localized_narratives(folder, videos=folder)
    assert (len(records), coverage.rows_used) == (6, 22) and not coverage.problems
    assert {r.video for r in records if r.path} == {"5d24e4ea", "71217dfc"}
    assert [len(video_localized_narratives(folder, split=s)[0]) for s in ("OVIS_train", "oops_train")] == [3, 3]
    assert all(r.narratives[-1].actor == "background" and len(r.narratives[0].keyframes) == 10 for r in records)
    tiger = next(r for r in records if r.video == "5d24e4ea").narratives[0]
    assert tiger.caption == "A brown tiger with black stripes is fighting with the other tiger."
    assert [tiger.caption[slice(*s)] for s in tiger.noun_spans] == ["tiger", "stripes", "tiger"]
    assert [w.text for w in tiger.words] == tiger.caption.rstrip(".").split() and tiger.selected == (5, 6, 7)
    assert len(tiger.traces) == 12 and [len(t) for t in tiger.traces[:8]] == [18, 15, 9, 35, 14, 32, 20, 13]


def test_traces_and_words_share_the_recordings_clock(folder):
    """Strokes are drawn while words are spoken: with the right clock they fall into the span of the speech."""
    for record in video_localized_narratives(folder)[0]:
        for narrative in record.narratives:
            points = np.concatenate(narrative.traces)
            assert (np.diff(points[:, 0]) >= 0).all()
            assert points[0, 0] >= 0 and points[-1, 0] <= narrative.words[-1].end + 5
            assert set(points[:, 3].astype(int)) <= set(narrative.selected)
            assert np.abs(points[:, 1:3] - 0.5).max() < 0.7  # about [0, 1], a little outside is allowed
            assert all(narrative.caption[slice(*w.span)] == w.text for w in narrative.words)


def test_the_first_stroke_by_hand(folder):
    with open(folder / "OVIS_train_sample.jsonl", encoding="utf-8") as file:
        raw = json.loads(file.readlines()[1])["actor_narratives"][0]
    point, begin = raw["traces"][0][0], raw["recording_start_time_ms_since_epoch"]
    stroke = video_localized_narratives(folder / "OVIS_train_sample.jsonl")[0][1].narratives[0].traces[0]
    np.testing.assert_allclose(
        stroke[0], [(point["time_ms_since_epoch"] - begin) / 1000, point["x"], point["y"], point["kf_idx"]]
    )


def test_bad_rows(folder, tmp_path):
    with open(folder / "OVIS_train_sample.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows[0]["actor_narratives"][0]["traces"][0][0]["kf_idx"] = 10
    rows[0]["actor_narratives"][1]["time_alignment"][0]["referenced_word"] = "zebra"
    rows[1]["actor_narratives"][0]["noun_segments"][0] = [5, 900]
    del rows[1]["actor_narratives"][1]["traces"]
    rows[2]["video_id"] = ""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + "nope\n")
    records, coverage = video_localized_narratives(path)
    assert [(r.video, len(r.narratives)) for r in records] == [("5d24e4ea", 1)]
    assert coverage.problems.counts() == {
        "there is no such key frame": 1, "a word is not at its characters of the caption": 1, "no usable narrative": 1,
        "characters outside the caption": 1, "no 'traces'": 1, "video_id is empty": 1, "not JSON": 1,
    }  # fmt: skip
    assert any(p.where.startswith(f"{path}:2 narrative 1") for p in coverage.problems.items)
