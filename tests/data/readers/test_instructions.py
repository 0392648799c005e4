"""LLaVA, Valley and Video-ChatGPT instruction files in their official layouts."""

import json

import pytest

from vtjax.data.readers.coverage import Coverage
from vtjax.data.readers.instructions import llava, valley, video_chatgpt
from vtjax.data.video_records import Turn


def talk(*texts, first="human"):
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]


BAD = [
    ({"conversations": talk("<image>\nq")}, "a conversation needs pairs of question and answer"),
    ({"conversations": []}, "a conversation needs pairs of question and answer"),
    ({"conversations": [*talk("<image>\nq", "a"), *talk("a", "q", first="gpt")]}, "human and gpt do not alternate"),
    ({"conversations": talk("<image>\n<image>q", "a")}, "more media tokens than media"),
    ({"conversations": talk("q", "a", "<image> q", "a")}, "the media token is not in the first turn"),
    ({"conversations": [{"from": "system", "value": "x"}]}, "a turn is from neither human nor gpt"),
    ({"conversations": talk("<image>\nq", " ")}, "a turn is empty"),
    ({"conversations": "q"}, "conversations is not a list"),
    ({}, "no 'conversations'"),
]


@pytest.mark.parametrize(("entry", "reason"), BAD)
def test_bad_conversations(tmp_path, entry, reason):
    good = {"id": "1", "image": "a.jpg", "conversations": talk("<image>\nq", "a")}
    (tmp_path / "llava.json").write_text(json.dumps([good, {"id": "2", "image": "b.jpg", **entry}], indent=1))
    records, coverage = llava(tmp_path)
    assert [r.video for r in records] == ["a"] and coverage.problems.counts() == {reason: 1}
    lines = (tmp_path / "llava.json").read_text().splitlines()
    line = 1 + max(i for i, text in enumerate(lines) if text == " {")
    assert coverage.problems.items[0].where.startswith(f"{tmp_path}/llava.json:{line}: entry 1")


def test_llava_with_pictures_videos_and_text_only(tmp_path):
    data = [
        {
            "id": "000000033471",
            "image": "coco/train2017/000000033471.jpg",
            "conversations": talk("<image>\nq1", "a1", "q2", "a2"),
        },
        {"id": "t", "conversations": talk("hello", "hi")},
        {"id": "v", "video": "clip.mp4", "conversations": talk("what?\n<video>", "x")},
        {"id": "g", "image": "c.jpg", "conversations": talk("intro", "<image>\nq", "a", first="gpt")},
        {"id": "n", "image": "c.jpg", "conversations": talk("q", "a")},
        {"id": "x", "conversations": talk("<image>\nq", "a")},
    ]
    (tmp_path / "llava_v1_5_mix665k.json").write_text(json.dumps(data))
    (tmp_path / "coco/train2017").mkdir(parents=True)
    (tmp_path / "coco/train2017/000000033471.jpg").write_bytes(b"x")
    records, coverage = llava(tmp_path, videos=tmp_path)
    assert [r.media for r in records] == ["image", "text", "video", "image", "image"]
    assert records[0].path == tmp_path / "coco/train2017/000000033471.jpg" and coverage.on_disk == 1
    assert records[3].instruction.turns == (Turn("human", "<image>\nq"), Turn("gpt", "a"))
    assert coverage.problems.counts() == {"more media tokens than media": 1}
    assert set(coverage.notes.counts()) == {
        "the conversation starts with gpt, that turn was dropped", "no <image> in the first turn",
    }  # fmt: skip
    assert coverage.used == 5 and sorted(set(coverage.missing)) == ["c", "clip"]


def test_valley_finds_videos_in_their_source_folder(tmp_path):
    data = [
        {"id": "a_0_10", "video": "a_0_10", "source": "VATEX", "conversations": talk("<video>\nq", "a")},
        {"id": "b", "video": "b.mp4", "source": "jukinmedia", "conversations": talk("q\n<video>", "a")},
        {"id": "c", "video": "c.mp4", "source": 3, "conversations": talk("<video>", "a")},
        {"id": "d", "conversations": talk("<video>", "a")},
    ]
    (tmp_path / "valley_instruct_65k.json").write_text(json.dumps(data))
    for name in ("videos/jukinmedia/a_0_10.mp4", "videos/VATEX/a_0_10.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    records, coverage = valley(tmp_path, videos=tmp_path / "videos")
    assert [(r.video, r.path) for r in records] == [
        ("VATEX/a_0_10", tmp_path / "videos/VATEX/a_0_10.mp4"), ("jukinmedia/b", None),
    ]  # fmt: skip
    assert (coverage.annotated, coverage.on_disk, coverage.missing) == (2, 1, ["jukinmedia/b"])
    assert coverage.problems.counts() == {"source is not text": 1, "no 'video'": 1}


def test_video_chatgpt(tmp_path):
    data = [
        {"q": "What happens?", "a": "A man runs.", "video_id": "v_bXdq2zI1Ms0"},
        {"q": "Why?", "a": "To win.", "video_id": "v_bXdq2zI1Ms0"},
        {"q": "", "a": "x", "video_id": "v_c"},
        {"q": "x", "video_id": "v_c"},
        {"q": "x", "a": "y", "video_id": "v_CN01Gm2Yc4k"},
    ]
    (tmp_path / "VideoInstruct_Dataset.json").write_text(json.dumps(data))
    records, coverage = video_chatgpt(tmp_path, exclude={"CN01Gm2Yc4k": "ActivityNet Captions val_1"})
    assert [r.id for r in records] == ["v_bXdq2zI1Ms0/0", "v_bXdq2zI1Ms0/1"]
    assert records[1].instruction.turns == (Turn("human", "<video>\nWhy?"), Turn("gpt", "To win."))
    assert coverage.annotated == 1 and coverage.problems.counts() == {
        "q is empty": 1, "no 'a'": 1, "evaluation video of ActivityNet Captions val_1, kept out of training": 1,
    }  # fmt: skip
    assert isinstance(coverage, Coverage)
