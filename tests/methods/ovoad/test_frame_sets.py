"""Published sets ready to score: THUMOS14, LSTR's layout, EPIC-KITCHENS with the official order; class phrases."""

import json
import shutil

import numpy as np
import pytest

from vtjax.data.readers.class_phrases import noun_phrase, phrases, spaced, verb_phrase
from vtjax.data.readers.epic_kitchens import classes
from vtjax.errors import VtjaxError
from vtjax.methods.ovoad import frame_sets


def test_thumos_names_and_phrases(shared_data):
    found = frame_sets.thumos14(shared_data / "detection/thumos14")
    assert len(found.targets) == 213 and (found.metric, found.protocols) == ("mAP", ("lstr", "ovoad"))
    assert found.phrases[1] == "baseball pitch" and found.phrases[4] == "clean and jerk"
    assert found.phrases[16] == "shotput" and found.phrases[20] == "volleyball spiking"


def test_phrases():
    assert spaced("Get in/out of car") == "get in or out of car" and spaced("braid hair ") == "braid hair"
    said = {"turn-on": "turning on", "cut": "cutting", "unwrap": "unwrapping", "let-go": "letting go", "take": "taking"}
    said |= {"unfreeze": "unfreezing", "mix": "mixing", "unroll": "unrolling", "season": "seasoning", "use": "using"}
    assert {verb: verb_phrase(verb) for verb in said} == said
    assert noun_phrase("board:chopping") == "chopping board"
    assert phrases(("Background", "turn-off"), "verb") == ("background", "turning off")


def test_official_order_of_epic_and_the_published_one(shared_data):
    official = classes(shared_data / "detection", "verb")
    assert official[:11] == (
        "take", "put", "wash", "open", "close", "insert", "turn-on", "cut", "turn-off", "pour", "mix",
    )  # fmt: skip
    published = json.loads((shared_data / "detection/ovoad_new_data_info.json").read_text())["EK100"]["verb_class"][1:]
    assert set(published) == set(official) and len(official) == 97
    assert sum(a == b for a, b in zip(published, official)) == 1


def test_epic_targets_by_testras_rule(shared_data, tmp_path):
    for kind in ("verb", "noun"):
        shutil.copy(shared_data / f"detection/EPIC_100_{kind}_classes.csv", tmp_path)
    header = "narration_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame,narration"
    (tmp_path / "EPIC_100_video_info.csv").write_text("video_id,duration,fps,resolution\nP01_11,4.9,30.0,1x1\n")
    (tmp_path / "EPIC_100_validation.csv").write_text(
        f"{header},verb_class,noun_class\na,P01_11,00:00:01.00,00:00:02.30,30,69,turn on tap,6,0\n"
        "b,P01_11,00:00:02.10,00:00:03.00,63,90,cut,7,14\n"
    )
    found = frame_sets.epic_verbs_or_nouns(tmp_path)
    table = found.targets["P01_11"].targets
    assert table.shape == (20, 98) and found.phrases[7] == "turning on" and found.metric == "mcAP"
    # floor(30 / 7.5) .. ceil(69 / 7.5) - 1, and floor(63 / 7.5) .. ceil(90 / 7.5) - 1
    rows = [np.flatnonzero(table[:, column]).tolist() for column in (7, 8, 0)]
    assert rows == [[4, 5, 6, 7, 8, 9], [8, 9, 10, 11], [*range(4), *range(12, 20)]]
    nouns = frame_sets.epic_verbs_or_nouns(tmp_path, "noun")
    assert nouns.targets["P01_11"].targets.shape == (20, 301) and nouns.phrases[1] == "tap"
    with pytest.raises(VtjaxError, match="did you mean 'verb'"):
        frame_sets.epic_verbs_or_nouns(tmp_path, "verbs")


def test_lstrs_layout(shared_data, tmp_path):
    (tmp_path / "target_perframe").mkdir()
    np.save(tmp_path / "target_perframe/24_ep4.npy", np.eye(31)[[0, 0, 1, 19]])
    info = shared_data / "detection/testra_data_info.json"
    found = frame_sets.lstr_folder(tmp_path, "TVSeries", info, rates={"24_ep4": 4.0})
    assert found.metric == "mcAP" and found.targets["24_ep4"].ambiguous is None
    assert found.phrases[18] == "get in or out of car"
    assert found.coverage.problems.counts() == {"listed, but the target file is missing": 6}
    (tmp_path / "target_perframe/24_ep4.npy").unlink()
    with pytest.raises(VtjaxError, match="no video has targets"):
        frame_sets.lstr_folder(tmp_path, "TVSeries", info)
