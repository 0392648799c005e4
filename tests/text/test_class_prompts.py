"""Class names put into templates, and lists of them that cannot be used."""

import pytest

from vtjax.errors import VtjaxError
from vtjax.text.class_prompts import checked_names, named_classes


def test_class_names_become_prompts():
    classes = named_classes(["throw_ball", "run"], ("a {}.", "{}"))
    assert classes.prompts == (("a throw ball.", "throw ball"), ("a run.", "run"))
    assert not classes.held_out.any() and (classes.backwards == -1).all()


@pytest.mark.parametrize(
    "names, message",
    [([], "list is empty"), (["run", " "], "class 2 of 2 has an empty name"), (["Cut_it", "cut it"], "listed twice")],
)
def test_lists_that_cannot_be_used_are_refused(names, message):
    with pytest.raises(VtjaxError, match=message):
        checked_names(names)
    assert checked_names([" run "]) == ["run"]
