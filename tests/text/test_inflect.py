import pytest

from vtjax.text import inflect

# (base, third person, -ing form), from a dictionary
FORMS = [
    ("wave", "waves", "waving"),
    ("sit", "sits", "sitting"),
    ("hop", "hops", "hopping"),
    ("reach", "reaches", "reaching"),
    ("do", "does", "doing"),
    ("go", "goes", "going"),
    ("carry", "carries", "carrying"),
    ("lie", "lies", "lying"),
    ("kneel", "kneels", "kneeling"),
    ("squat", "squats", "squatting"),
    ("clap", "claps", "clapping"),
    ("throw", "throws", "throwing"),
    ("box", "boxes", "boxing"),
    ("play", "plays", "playing"),
    ("run", "runs", "running"),
    ("raise", "raises", "raising"),
    ("kick", "kicks", "kicking"),
    ("put", "puts", "putting"),
    ("jog", "jogs", "jogging"),
    ("rotate", "rotates", "rotating"),
    ("bend", "bends", "bending"),
    ("leap", "leaps", "leaping"),
    ("be", "is", "being"),
    ("push", "pushes", "pushing"),
    ("stroll", "strolls", "strolling"),
    ("swing", "swings", "swinging"),
]


@pytest.mark.parametrize("base, third, ing", FORMS)
def test_forms_and_back(base, third, ing):
    assert inflect.third_person(base) == third
    assert inflect.gerund(base) == ing
    assert inflect.base_of_gerund(ing) == base
    if base != "be":
        assert inflect.base_of_third(third) == base


@pytest.mark.parametrize("word", ["thing", "something", "wing", "king", "waves", "ing", ""])
def test_what_is_no_ing_form(word):
    assert inflect.base_of_gerund(word) is None


@pytest.mark.parametrize(
    "ing, base", [("vaulting", "vault"), ("trudging", "trudge"), ("plodding", "plod"), ("hissing", "hiss")]
)
def test_verbs_outside_the_list_go_by_spelling(ing, base):
    assert inflect.base_of_gerund(ing) == base
