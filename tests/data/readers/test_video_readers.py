"""All readers of video data: found by name, and robust against any value of a JSON file being something else."""

import copy
import inspect
import json
import subprocess
import sys

import pytest

from vtjax.data.readers import VIDEO_READERS, video_reader
from vtjax.data.readers.coverage import Coverage
from vtjax.errors import VtjaxError

TALK = [{"from": "human", "value": "<video>\nq <s0>"}, {"from": "gpt", "value": "a"}]
SEGMENTS = [{"segment": [1, 2], "id": 0, "label": "a", "sentence": "x", "partial": "Full Match"}]
FILES = {
    "howto100m": {"caption.json": {"v": {"text": ["a"], "start": [1], "end": [2]}}},
    "htm_align": {"htm_align.json": {"v": [[1, 2.0, 3.0, "a"]]}},
    "ht_step": {
        "annotations.json": {
            "v": {"subset": "val_seen", "activity": "A", "variation": "none", "duration": 9, "annotations": SEGMENTS}
        },
        "video_splits.json": {"val_seen": ["v"]},
    },
    "youcook2": {"x_annotations.json": {"database": {"v": {"duration": 9, "subset": "t", "annotations": SEGMENTS}}}},
    "coin": {
        "COIN.json": {
            "database": {
                "v": {
                    "recipe_type": 1, "class": "C", "subset": "t", "duration": 9, "start": 0, "end": 9,
                    "annotation": SEGMENTS,
                }
            }
        }
    },
    "activitynet": {
        "activity_net.json": {
            "taxonomy": [{"nodeId": 1, "nodeName": "a", "parentId": 0}],
            "database": {"v": {"duration": 9, "subset": "t", "fps": 5, "annotations": SEGMENTS}},
        }
    },
    "fineaction": {"annotations_gt.json": {"database": {"v": {"duration": 9, "subset": "t", "annotations": SEGMENTS}}}},
    "ssv2": {
        "labels.json": {"a b": "0"},
        "validation.json": [{"id": "1", "label": "a c", "template": "a [b]"}],
    },
    "activitynet_captions": {"val_1.json": {"v": {"duration": 9, "timestamps": [[1, 2]], "sentences": ["a"]}}},
    "vtimellm": {
        "stage2.json": [
            {"id": "v", "conversations": TALK, "meta": {"split": [0, 9], "duration": 9, "token": {"<s0>": 1}}}
        ]
    },
    "llava": {"llava.json": [{"id": "v", "video": "v.mp4", "conversations": TALK}]},
    "valley": {"valley_instruct.json": [{"id": "v", "video": "v", "source": "s", "conversations": TALK}]},
    "video_chatgpt": {"VideoInstruct.json": [{"q": "q", "a": "a", "video_id": "v"}]},
    "video_qa": {
        "test_q.json": [{"video_name": "v", "question": "q", "question_id": "1"}],
        "test_a.json": [{"answer": "a", "type": 1, "question_id": "1"}],
    },
    "internvid": {
        "a.jsonl": {
            "YoutubeID": "v", "Start_timestamp": "00:00:01.0", "End_timestamp": "00:00:02.0", "Caption": "c",
            "UMT_Score": 1,
        }
    },
    "localized_narratives": {
        "a.jsonl": {
            "dataset_id": "coco_val", "image_id": "1", "annotator_id": 2, "caption": "a b",
            "timed_caption": [{"utterance": "a", "start_time": 0, "end_time": 1}],
            "traces": [[{"x": 0, "y": 0, "t": 0}]],
        }
    },
    "video_localized_narratives": {
        "a.jsonl": {
            "vidln_id": 1, "dataset_id": "d_train", "video_id": "v", "keyframe_names": ["k"],
            "actor_narratives": [
                {
                    "actor_name": "n", "caption": "a b", "keyframe_selection_indices": [0],
                    "recording_start_time_ms_since_epoch": 5, "noun_segments": [[0, 1]],
                    "traces": [[{"x": 0, "y": 0, "time_ms_since_epoch": 6, "kf_idx": 0}]],
                    "time_alignment": [
                        {
                            "referenced_word": "a", "start_ms": 0, "end_ms": 1, "referenced_word_start_idx": 0,
                            "referenced_word_end_idx": 1,
                        }
                    ],
                }
            ],
        }
    },
}  # fmt: skip
ODD = [None, True, -1, 10**400, 1.5, float("nan"), float("inf"), "", "x", [], [[]], {}, {"x": []}, [1, 2, 3]]


def paths(tree, at=()):
    yield at
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from paths(value, (*at, key))


def replaced(tree, at, value):
    if not at:
        return value
    tree = copy.deepcopy(tree)
    inner = tree
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return tree


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content) + "\n")
    (folder / "taxonomy.csv").write_text(
        "global_step_index,activity,step_index,variation,variation_index,headline,paragraph\n0,A,0,none,1,Do.,\n"
    )


@pytest.mark.parametrize("name", FILES)
def test_any_odd_value_is_counted_or_named(tmp_path, name):
    read = video_reader(name)
    write(tmp_path, FILES[name])
    records, coverage = read(tmp_path)
    assert len(records) == 1 and not coverage.problems, "the unchanged file must be good"
    whole = coverage.rows_used
    for file, content in FILES[name].items():
        for at in paths(content):
            for odd in ODD:
                (tmp_path / file).write_text(json.dumps(replaced(content, at, odd)) + "\n")
                try:
                    records, coverage = read(tmp_path)
                except VtjaxError as error:
                    assert str(tmp_path) in str(error)
                    continue
                if not records:
                    empty = at == () or odd in ([], {})
                    assert coverage.problems or empty or coverage.rows == 0 or name == "ht_step", (file, at, odd)
                assert coverage.rows_used <= max(whole, 3) and coverage.report()
        (tmp_path / file).write_text(json.dumps(content) + "\n")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(tmp_path, name):
    write(tmp_path, FILES[name])
    file = max(FILES[name], key=lambda f: len(json.dumps(FILES[name][f])))
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text[: len(text) // 2])
    try:
        records, coverage = video_reader(name)(tmp_path)
    except VtjaxError as error:
        assert f"{tmp_path}/{file}:1" in str(error) and "not JSON" in str(error)
    else:
        assert records == [] and coverage.problems.counts() == {"not JSON": 1}


def test_every_reader_is_found_by_name_and_reads_alike():
    for name in VIDEO_READERS:
        reader = video_reader(name)
        parameters = inspect.signature(reader).parameters
        assert next(iter(parameters)) == "folder" and {"split", "videos"} <= set(parameters) and reader.__doc__
        assert all(p.kind is p.KEYWORD_ONLY for n, p in parameters.items() if n != "folder")
    with pytest.raises(VtjaxError, match="did you mean 'crosstask'"):
        video_reader("crostask")


def test_a_missing_folder_is_named(tmp_path):
    options = {"frame_targets": {"dataset": "THUMOS", "info": tmp_path / "no/data_info.json"}}
    for name in VIDEO_READERS:
        with pytest.raises(VtjaxError, match="no"):
            video_reader(name)(tmp_path / "no", **options.get(name, {}))


def test_readers_are_imported_only_when_asked_for():
    code = (
        "import sys, vtjax.data.readers as r\n"
        "loaded = [n for n in r.VIDEO_READERS if r.VIDEO_READERS[n][0] in sys.modules]\n"
        "assert loaded == [], loaded\nr.video_reader('coin')\nassert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_motion_and_video_share_one_coverage():
    from vtjax.data.readers import humanml3d

    assert humanml3d.Coverage is Coverage
    assert "2 motions on disk" in Coverage("val", on_disk=2).report()
