"""Configurations: files, variants, overrides, JSON, and what they refuse."""

import dataclasses
import importlib.util
import json
import pathlib

import pytest

from vtjax import config as configuration
from vtjax import methods
from vtjax.config import Experiment, Optim, Stage, Train
from vtjax.errors import VtjaxError

ROOT = pathlib.Path(__file__).parents[1]


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = sorted((ROOT / "configs").glob("*.py"))
VARIANTS = [(path, variant) for path in FILES for variant in module_of(path).VARIANTS]


@pytest.mark.parametrize("path, variant", VARIANTS, ids=lambda v: v if isinstance(v, str) else v.stem)
def test_every_variant_loads_and_survives_json(path, variant, tmp_path):
    experiment = configuration.load_config_file(f"{path}:{variant}")
    configuration.check(experiment)
    method = methods.get(experiment.name)
    assert type(experiment.method) is method.config and isinstance(experiment.stages, method.stages_config)
    methods.check(experiment)
    configuration.save_experiment(experiment, tmp_path / "config.json")
    again = methods.load_experiment(tmp_path / "config.json")
    assert again == experiment and type(again.method) is type(experiment.method)
    assert json.loads((tmp_path / "config.json").read_text()) == configuration.to_dict(experiment)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_file_has_smoke_demo_and_paper_and_its_command(path):
    module = module_of(path)
    assert {"smoke", "demo", "paper"} <= set(module.VARIANTS)
    assert module.get_config() == module.get_config("demo")
    assert module.get_config("smoke") is not module.get_config("smoke"), "a variant is built anew, never shared"
    assert f"--config=configs/{path.name}" in module.__doc__
    for variant in module.VARIANTS:
        assert variant in module.__doc__, variant
    with pytest.raises(VtjaxError, match="did you mean 'smoke'"):
        module.get_config("smok")


@dataclasses.dataclass
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()
    limit: int | None = None


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    count: int = 1
    deep: bool = False


def test_types_come_back():
    value = Outer(Inner(1.0, ("a", "b"), 3), 7, True)
    again = configuration.from_dict(Outer, configuration.to_dict(value))
    assert again == value and type(again.inner.names) is tuple
    whole = configuration.from_dict(Outer, {"inner": {"rate": 2}})
    assert whole.inner.rate == 2.0 and type(whole.inner.rate) is float and whole.inner.limit is None and whole.count == 1


@pytest.mark.parametrize(
    "values, message",
    [
        ({"cuont": 1}, "config.cuont: no such field in Outer; did you mean 'count'"),
        ({"inner": {"rat": 1.0}}, "config.inner.rat: no such field in Inner; did you mean 'rate'"),
        ({"inner": {"zzzzzz": 1.0}}, "known: limit, names, rate"),
        ({"count": 1.5}, "config.count: 1.5 is float, expected int"),
        ({"count": True}, "config.count: True is bool, expected int"),
        ({"deep": 1}, "config.deep: 1 is int, expected bool"),
        ({"inner": {"rate": True}}, "config.inner.rate: True is bool, expected float"),
        ({"inner": {"rate": "fast"}}, "config.inner.rate: 'fast' is str, expected float"),
        ({"inner": {"names": ["a", 2]}}, "config.inner.names: 2 is int, expected str"),
        ({"inner": {"names": "ab"}}, "config.inner.names: 'ab' is str, expected a list"),
        ({"inner": {"limit": "3"}}, "config.inner.limit: '3' is str, expected int"),
        ({"inner": 4}, "config.inner: 4 is int, expected the fields of Inner"),
    ],
)
def test_wrong_fields_and_types_are_named(values, message):
    with pytest.raises(VtjaxError) as error:
        configuration.from_dict(Outer, values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "config.json: no such file"),
        ('{"name":\n "car",,', "config.json:2: not JSON"),
        ("[]", "not the configuration of a run"),
        ('{"name": "car", "method": {}}', "not the configuration of a run: it has no stages"),
        ('{"name": "cra", "method": {}, "stages": {}}', "config.name='cra': no such method"),
        ('{"name": "car", "method": {"los": {}}, "stages": {}}', "config.method.los: no such field in CarConfig; did you mean 'loss'"),
        ('{"name": "car", "method": {}, "stages": {}, "sead": 1}', "config.sead: no such field in Experiment; did you mean 'seed'"),
        ('{"name": "car", "method": {}, "stages": {}, "seed": "1"}', "config.seed: '1' is str, expected int"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(VtjaxError) as error:
        methods.load_experiment(path)
    assert message in str(error.value)


@dataclasses.dataclass
class OneStage:
    teacher: Stage = dataclasses.field(default_factory=Stage)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"train": Train(steps=0)}, "config.train.steps=0: must be at least 1"),
        ({"train": Train(batch_size=6, accumulate=4)}, "config.train.accumulate=4 does not divide batch_size=6"),
        ({"optim": Optim(learning_rate=-1.0)}, "config.optim.learning_rate=-1.0: must not be negative"),
        ({"optim": Optim(final_ratio=1.5)}, "config.optim.final_ratio=1.5: lies in \\[0, 1\\]"),
        ({"optim": Optim(warmup_steps=2000)}, "config.optim.warmup_steps=2000 exceeds train.steps=1000"),
        ({"optim": Optim(betas=(0.9,))}, r"config.optim.betas=\(0.9,\): two numbers are needed"),
        ({"compute_dtype": "float16"}, "config.compute_dtype='float16': did you mean 'bfloat16'"),
        ({"stages": OneStage(Stage(train=Train(steps=-1)))}, "config.stages.teacher.train.steps=-1: must be at least 1"),
    ],
)
def test_settings_that_cannot_work_together(change, message):
    configuration.check(Experiment("toy", Inner()))
    configuration.check(Experiment("toy", Inner(), stages=OneStage()))
    with pytest.raises(VtjaxError, match=message):
        configuration.check(Experiment("toy", Inner(), **change))


def test_config_files_that_are_none(tmp_path):
    with pytest.raises(VtjaxError, match="no file 'absent.py'; for example configs/car.py"):
        configuration.load_config_file("absent.py:demo")
    (tmp_path / "x.py").write_text("a = 1\n")
    with pytest.raises(VtjaxError, match=r"has no get_config\(variant\) function"):
        configuration.load_config_file(str(tmp_path / "x.py"))
