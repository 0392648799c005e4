import json

import pytest

from vtjax.errors import VtjaxError
from vtjax.evals import protocol
from vtjax.evals.protocol import Result


def make(name="retrieval/all/t2m", items=7, **changes):
    fields = dict(metrics={"R@1": 12.5}, chance={"R@1": 3.125}, interval={"R@1": (4.0, 31.25)}, notes=("seeded",))
    return Result(protocol=name, items=items, **{**fields, **changes})


def test_json_round_trip():
    result = make()
    record = json.loads(json.dumps(result.to_json()))
    assert record["interval_95"] == {"R@1": [4.0, 31.25]}
    assert Result.from_json(record) == result


def test_from_json_names_the_missing_key():
    record = make().to_json()
    del record["chance"]
    with pytest.raises(VtjaxError, match="chance"):
        Result.from_json(record)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"chance": {}}, "no chance"),
        ({"interval": {}}, "no interval"),
        ({"items": 0}, "no item"),
        ({"metrics": {"R@1": float("nan")}}, "not finite"),
        ({"interval": {"R@1": (0.0, float("inf"))}}, "not finite"),
    ],
)
def test_a_figure_without_its_context_is_refused(changes, message):
    with pytest.raises(VtjaxError, match=message):
        make(**changes)


def test_table_prints_protocol_items_chance_interval_and_notes():
    car = Result("car/2-way", {"CAR": 64.736}, 2331, {"CAR": 50.0}, {"CAR": (62.8, 66.7)})
    text = protocol.format_table([make(), car, make("retrieval/all/m2t", 9)])
    first, second = text.split("\n\n")  # rows with the same metrics share one table
    assert [line.split()[0] for line in first.splitlines()] == [
        "protocol", first.splitlines()[1].split()[0], "retrieval/all/t2m", "95", "chance",
        "retrieval/all/m2t", "95", "chance", "retrieval/all/t2m:", "retrieval/all/m2t:",
    ]  # fmt: skip
    for part in ("7", "12.50", "4.0-31.2", "3.12", "seeded"):
        assert part in first
    for part in ("car/2-way", "2331", "64.74", "62.8-66.7", "50.00"):
        assert part in second


def test_save_results(tmp_path):
    protocol.save_results(tmp_path / "deep" / "results.json", [make()])
    saved = json.loads((tmp_path / "deep" / "results.json").read_text())
    assert [Result.from_json(record) for record in saved] == [make()]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["results.json"]
