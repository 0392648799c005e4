"""What a Method refuses when it is made, and what the registry gives."""

import dataclasses
import importlib.metadata

import pytest

from vtjax import methods
from vtjax.config import Stage as StageSettings
from vtjax.errors import VtjaxError
from vtjax.methods.method import Method, Stage


@dataclasses.dataclass
class Settings:
    width: int = 1


@dataclasses.dataclass
class OneStage:
    first: StageSettings = dataclasses.field(default_factory=StageSettings)


def nothing(run):
    return []


STAGE = Stage(nothing, nothing)
WHOLE = dict(
    name="toy", about="", config=Settings, stages={"train": STAGE}, open=nothing, evaluate=nothing, predict=nothing,
    answer=nothing, page=nothing,
)  # fmt: skip


def untyped(run, *, text=""):
    return text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "To-y"}, "name: 'To-y'; a lower-case identifier"),
        ({"config": Settings()}, "config: .*; a dataclass is expected"),
        ({"stages": {}}, "stages: a mapping of names to Stage"),
        ({"stages": {"first": STAGE, "train": STAGE}}, r"stages_config: has the fields \[\]; the stages before the last one are \['first'\]"),
        ({"stages_config": OneStage}, r"stages_config: has the fields \['first'\]"),
        ({"stages": {"train": dataclasses.replace(STAGE, takes=("teacher",))}}, r"stages\['train'\].takes: \['teacher'\] do not come before it"),
        ({"page": None}, "page: None; a function is expected"),
        ({"predict": untyped}, "predict: argument 'text' has no type"),
        ({"levers": {"method.widht": (1, 2)}}, "levers: 'method.widht' is no field of the experiment"),
        ({"levers": {"method.width": (1,)}}, "levers: 'method.width' has the values .*two different ones at least"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(VtjaxError, match=f"method '.*': {message}"):
        Method(**{**WHOLE, **change})


def test_a_whole_method_is_taken():
    stages = {"first": STAGE, "train": dataclasses.replace(STAGE, takes=("first",))}
    levers = {"method.width": (1, 2), "train.accumulate": (1, 2)}
    method = Method(**{**WHOLE, "stages": stages, "stages_config": OneStage, "levers": levers})
    assert method.last_stage == "train"


def test_the_registry_names_the_nearest():
    assert {"car", "clip", "llama", "ovoad"} <= set(methods.names())
    with pytest.raises(VtjaxError, match="config.name='cra': no such method; did you mean 'car'"):
        methods.get("cra")


def test_what_a_package_registers_must_be_a_method(monkeypatch):
    entry = importlib.metadata.EntryPoint("wrong", "builtins:dict", methods.GROUP)
    monkeypatch.setattr(methods, "_entries", lambda: {"wrong": entry})
    with pytest.raises(VtjaxError, match="builtins:dict: a Method of the name 'wrong' is expected, not {}"):
        methods.get.__wrapped__("wrong")


def test_layouts_are_those_of_the_methods():
    """They are also listed without the methods' other parts, for the help of vtjax.convert."""
    of_methods = [layout for name in methods.names() for layout in methods.get(name).layouts]
    assert methods.layouts() == of_methods and {"car", "tmr", "clip", "ovoad"} <= {layout.name for layout in of_methods}


@pytest.mark.parametrize("name", ["car", "clip", "llama", "ovoad"])
def test_every_argument_and_every_field_has_a_meaning(name):
    import commands

    from vtjax import arguments
    from vtjax.config import load_config_file, settings

    method = methods.get(name)
    assert not [a.name for a in arguments.arguments(method.predict) if not a.about]
    experiment = load_config_file(f"{commands.ROOT}/configs/{name}.py:smoke")
    bare = [s.path for s in settings(experiment) if not s.about or s.about.startswith(("must be", "lies in"))]
    assert not bare
