"""What was left out is counted, and the nearest name is named."""

from vtjax.errors import Problems, VtjaxError, nearest


def test_problems_are_counted_by_reason_with_places():
    problems = Problems()
    assert problems.report() == "" and len(problems) == 0
    for i in range(5):
        problems.add(f"clip {i}", "too short")
    problems.add("clip 9", "NaN")
    assert len(problems) == 6 and problems.counts() == {"too short": 5, "NaN": 1}
    assert problems.report(2).splitlines() == [
        "left out 5: too short (clip 0, clip 1, and 3 more)",
        "left out 1: NaN (clip 9)",
    ]
    assert [p.where for p in problems.items][-1] == "clip 9"


def test_the_nearest_name_or_all_of_them():
    assert nearest("learnin_rate", ["learning_rate", "eps"]) == "did you mean 'learning_rate'?"
    assert nearest("qqqq", ["b", "a"]) == "known: a, b"
    assert nearest("x", []) == "none are known"
    assert nearest("x", iter(())) == "none are known"


def test_a_users_error_is_a_value_error():
    assert issubclass(VtjaxError, ValueError)
