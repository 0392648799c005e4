import json

import numpy as np

from vtjax.evals.protocol import Result
from vtjax.methods.car import cards as car
from vtjax.methods.car.cards import Example, Match, Query
from vtjax.methods.car.page import report

EVENTS = ("A person walks.", "The person sits <down>.", "The person waves.")


def result(protocol, metric, value, chance):
    return Result(protocol, {metric: value}, 320, {metric: chance}, {metric: (value - 3, value + 3)}, ("a note",))


RESULTS = [
    result("car/2-way/event-to-event", "CAR", 95.31, 50.0),
    result("car/blind/bigram", "CAR", 51.2, 50.0),
    result("retrieval/batches of 32/t2m", "R@1", 83.44, 3.125),
]


def write_metrics(folder, scale=1.0):
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": s, "split": "train", "loss": scale / (1 + s)}) for s in range(30)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 30, "spl']))


def test_training_report(tmp_path, walker, read_page):
    write_metrics(tmp_path / "align")
    motion = walker(60)
    bounds = ((0, 20), (20, 40), (40, 60))
    example = Example(
        Query(" ".join(EVENTS), "clip 7", motion, bounds, EVENTS),
        [Match("clip 3", 0.83, "something else", motion), Match("clip 7", 0.81, "the caption", motion, right=True)],
        [((0, 1, 2), 0.81), ((1, 0, 2), 0.55)],
    )
    read = read_page(report(tmp_path, RESULTS, [example], {"Seed": 0}, ["left out 2: <too short>"]).html())
    for part in ("95.3 %", "51.2 %", "83.4 %", "left out 2: <too short>", "true answer", "The person sits <down>.",
                 "0.830", "The true order scores highest.", "a note", "left out 1: not a JSON object"):  # fmt: skip
        assert part in read.text, part
    headings = [value for name, value in read.attributes if name == "href"]
    assert headings == ["#s1-order-of-events", "#s2-retrieval", "#s3-training", "#s4-worked-examples"]
    assert sum(value == "film" for _, value in read.attributes) == 3
    assert sum((value or "").startswith("data:image/svg+xml;base64,") for _, value in read.attributes) == 1


def test_several_stages_are_told_apart(tmp_path, read_page):
    write_metrics(tmp_path / "teacher")
    write_metrics(tmp_path / "student", 3.0)
    text = read_page(report(tmp_path, RESULTS).html()).text
    assert text.index("Stage student") < text.index("Stage teacher")


def test_a_run_without_metrics_or_examples(tmp_path, read_page):
    read = read_page(report(tmp_path, RESULTS[:1]).html())
    assert "Order of events" in read.text and "Training" not in read.text and "Worked" not in read.text


def test_a_tie_between_orders_is_not_a_success(read_page):
    for score, verdict in ((0.8, "scores as high as"), (0.7, "scores highest")):
        assert verdict in read_page(car.order_list(EVENTS, [((0, 1, 2), 0.8), ((2, 1, 0), score)])).text


def test_orders_stand_by_falling_score_with_events_in_order(read_page):
    text = read_page(car.order_list(EVENTS, [((0, 1, 2), 0.2), ((2, 0, 1), 0.9)])).text
    assert text.startswith("shuffled" + EVENTS[2] + EVENTS[0] + EVENTS[1] + "0.900" + "true order")


def test_text_query_over_motions(walker, read_page):
    ranked = [Match("02_01", 0.8, "walk", walker(25)), Match("02_02", -0.1, motion=walker(25))]
    page = car.query_page(Query("walks & turns"), ranked, {"Motions": 61}).html()
    read = read_page(page)
    assert "<title>walks &amp; turns</title>" in page and "Text query" in read.text and "2 best answers" in read.text
    assert read.text.index("02_01") < read.text.index("02_02") and "-0.100" in read.text
    widths = [value for name, value in read.attributes if name == "style" and value.startswith("width")]
    assert widths == ["width:80%", "width:0%"]


def test_motion_query_over_texts(walker, read_page):
    query = Query(name="02_05.npy", motion=walker(25).astype(np.float32))
    page = car.query_page(query, [Match("", 0.7, "a person walks")]).html()
    read = read_page(page)
    assert "Motion query" in read.text and "The best answer" in read.text and "a person walks" in read.text
    assert sum(value == "film" for _, value in read.attributes) == 1
