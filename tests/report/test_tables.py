import re

from vtjax.evals.protocol import Result
from vtjax.report import tables
from vtjax.report.style import colour


def car(name, value, interval, **others):
    metrics = {"CAR": value, **others}
    return Result(
        name, metrics, 40, {"CAR": 50.0, "first": 4.2}, {"CAR": interval, "first": (40.0, 60.0)}, ("2 ties", name)
    )


def test_families_do_not_share_a_table(read_page):
    retrieval = Result("retrieval/all/t2m", {"R@1": 1.0}, 9, {"R@1": 2.0}, {"R@1": (0.0, 3.0)})
    markup = tables.results_table([retrieval, car("car/2-way/x", 90.0, (80.0, 95.0))])
    assert read_page(markup).tags.count("table") == 2


def test_groups_are_named_once(read_page):
    rows = [car(f"car/2-way/{n}", 90.0, (80.0, 95.0)) for n in "ab"] + [car("car/blind/c", 51.0, (45.0, 57.0))]
    for markup in (tables.rate_table(rows, "CAR"), tables.results_table(rows)):
        text = read_page(markup).text
        table, notes = text[: text.index("2 ties")], text[text.index("2 ties") :]
        assert table.count("car/2-way") == 1 and table.count("car/blind") == 1
        assert notes.count("2 ties") == 1  # a note all share is given once
        assert "all protocols" in table and notes.count("car/blind/c") == 2


def test_rate_table_shows_figures_and_positions(read_page):
    markup = tables.rate_table(
        [
            car("car/a/good", 90.0, (80.0, 95.0), first=56.0),
            car("car/a/even", 51.0, (45.0, 57.0)),
            car("car/a/bad", 20.0, (10.0, 30.0)),
            Result("retrieval/all/t2m", {"R@1": 1.0}, 9, {"R@1": 2.0}, {"R@1": (0.0, 3.0)}),
        ],
        "CAR",
    )
    read = read_page(markup)
    words = "true order first of all: 56.0 % (40.0–60.0), chance 4.2 %"
    for part in ("90.0 %", "80.0–95.0, chance 50", words, "40"):
        assert part in read.text
    assert "retrieval" not in read.text
    dots = [(float(x), tint) for x, tint in re.findall(r'<circle cx="([\d.]+)"[^>]*fill="([^"]+)"', markup)]
    assert [tint for _, tint in dots] == [colour("accent"), colour("muted"), colour("bad")]
    scale = (dots[0][0] - dots[2][0]) / 70
    assert abs((dots[0][0] - dots[1][0]) - 39 * scale) < 0.2  # the dots lie on one linear scale
