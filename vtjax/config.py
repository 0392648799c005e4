"""The one configuration type: typed dataclasses, overridden by `--config.optim.learning_rate=3e-4`, kept as JSON.

A file under configs/ has `get_config(variant) -> Experiment`. The method's own settings are `Experiment.method`, a
dataclass of that method; `Experiment.optim` and `Experiment.train` drive its last stage, `Experiment.stages` (a
dataclass of `Stage` fields, in order) those before it.

Modules that define such dataclasses must not postpone annotations: config_flags reads the types off the fields.
"""

import dataclasses
import importlib.util
import json
import operator
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from vtjax.errors import VtjaxError, nearest
from vtjax.files import write_atomically


@dataclasses.dataclass
class Optim:
    """Optimizer and schedule, built from optax in training/optim.py."""

    name: str = "adamw"  # adamw | adam | sgd | lion
    learning_rate: float = 1e-4
    schedule: str = "constant"  # constant | cosine | linear, after the warm-up
    warmup_steps: int = 0
    final_ratio: float = 0.0  # learning rate at the last step over its peak
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    no_decay: str = ""  # regular expression of parameter paths without weight decay
    clip_norm: float = 0.0  # 0 is off
    rates: tuple[str, ...] = ()  # "regex=multiplier" of the learning rate, first match wins
    state_dtype: str = "float32"  # of the first moment


@dataclasses.dataclass
class Train:
    """One run of the training loop."""

    steps: int = 1000
    batch_size: int = 32  # global, over all hosts and devices
    accumulate: int = 1  # micro-batches per step; must divide batch_size
    trainable: str = ".*"  # regular expression of the parameter paths that learn; the rest is frozen
    initial: str = ""  # checkpoint or work directory to start from; "" is random
    log_every: int = 20
    eval_every: int = 0  # 0: at the end only
    checkpoint_every: int = 200
    checkpoint_seconds: float = 0.0  # also save when this long has passed; 0 is off
    keep: int = 2  # latest checkpoints kept, besides the best
    keep_every: int = 0  # also save at the steps that this divides, and never remove those; 0 is off
    best: tuple[str, ...] = ()  # "protocol/metric" to keep the best checkpoint of each; larger is better
    profile_steps: tuple[int, ...] = ()  # (first, last): a jax.profiler trace into the work directory


@dataclasses.dataclass
class Loader:
    """How batches are read; none of it changes what is read."""

    workers: int = 0  # worker processes; 0 reads in threads of this one
    threads: int = 4
    prefetch: int = 4  # batches


@dataclasses.dataclass
class Mesh:
    """Devices by axis. -1 once: what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1  # TPU slices, joined over the data axis


@dataclasses.dataclass
class Stage:
    """Settings of a stage that runs before the method's own last one."""

    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)


@dataclasses.dataclass
class Stages:
    """No earlier stages; a method with some has a dataclass of `Stage` fields of its own here."""


@dataclasses.dataclass
class Experiment:
    """Everything a run depends on."""

    name: str  # method: a folder of vtjax/methods
    method: Any
    seed: int = 0
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)
    stages: Any = dataclasses.field(default_factory=Stages)
    loader: Loader = dataclasses.field(default_factory=Loader)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    compute_dtype: str = "auto"  # of matmul inputs: auto is bfloat16 on accelerators and float32 on CPU


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass tree as plain dicts, lists and scalars."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(kind: type, values: dict[str, Any], where: str = "config") -> Any:
    """Rebuilds dataclass `kind` from `to_dict`'s output.

    Raises:
      VtjaxError: an unknown field (nearest match named) or a value of the wrong type, with its path.
    """
    if not isinstance(values, dict):
        raise VtjaxError(f"{where}: {values!r} is {type(values).__name__}, expected the fields of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise VtjaxError(f"{where}.{name}: no such field in {kind.__name__}; {nearest(name, known)}")
    return kind(**{name: _cast(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _cast(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
        return None if value is None else _cast(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise VtjaxError(f"{where}: {value!r} is {type(value).__name__}, expected a list")
        return tuple(_cast(typing.get_args(hint)[0], v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (isinstance(value, bool) and hint is int)):
        return value
    raise VtjaxError(f"{where}: {value!r} is {type(value).__name__}, expected {getattr(hint, '__name__', hint)}")


def save_experiment(experiment: Experiment, path: pathlib.Path) -> None:
    """Writes the resolved configuration as JSON."""
    write_atomically(path, json.dumps(to_dict(experiment), indent=2, sort_keys=True) + "\n")


def read_fields(path: pathlib.Path) -> dict[str, Any]:
    """The fields of `save_experiment`'s file as plain values.

    Raises:
      VtjaxError: missing or damaged file.
    """
    if not path.is_file():
        raise VtjaxError(f"{path}: no such file; a work directory written by vtjax.train has one")
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        line = getattr(error, "lineno", 1)
        raise VtjaxError(f"{path}:{line}: not JSON: {error}") from error
    absent = sorted({"name", "method", "stages"} - set(values)) if isinstance(values, dict) else ["name"]
    if absent:
        raise VtjaxError(f"{path}: not the configuration of a run: it has no {', '.join(absent)}")
    return values


def load_experiment(path: pathlib.Path) -> Experiment:
    """Reads `save_experiment`'s file; the method's own classes come from vtjax.methods.

    Raises:
      VtjaxError: missing or damaged file, unknown method, field or type.
    """
    from vtjax import methods

    values = read_fields(path)
    config_type, stages_type = methods.config_types(values["name"])
    method = from_dict(config_type, values.pop("method"), "config.method")
    stages = from_dict(stages_type, values.pop("stages"), "config.stages")
    hints = typing.get_type_hints(Experiment)
    for name in values:
        if name not in hints:
            raise VtjaxError(f"{path}: config.{name}: no such field in Experiment; {nearest(name, hints)}")
    rest = {k: _cast(hints[k], v, f"config.{k}") for k, v in values.items()}
    return Experiment(method=method, stages=stages, **rest)


def check(experiment: Experiment) -> None:
    """Refuses settings that cannot work together, before anything is built.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    for prefix, stage in [("config", experiment)] + [
        (f"config.stages.{f.name}", getattr(experiment.stages, f.name)) for f in dataclasses.fields(experiment.stages)
    ]:
        train, optim = stage.train, stage.optim
        if train.steps < 1 or train.batch_size < 1 or train.accumulate < 1:
            raise VtjaxError(f"{prefix}.train: steps, batch_size and accumulate must be at least 1")
        if train.batch_size % train.accumulate:
            raise VtjaxError(
                f"{prefix}.train.accumulate={train.accumulate} does not divide batch_size={train.batch_size}"
            )
        if optim.learning_rate < 0 or not 0 <= optim.final_ratio <= 1:
            raise VtjaxError(f"{prefix}.optim: learning_rate must not be negative, final_ratio lies in [0, 1]")
        if optim.warmup_steps > train.steps:
            raise VtjaxError(f"{prefix}.optim.warmup_steps={optim.warmup_steps} exceeds train.steps={train.steps}")
        if len(optim.betas) != 2:
            raise VtjaxError(f"{prefix}.optim.betas={optim.betas}: two numbers are needed")
    if experiment.compute_dtype not in ("auto", "float32", "bfloat16"):
        raise VtjaxError(f"config.compute_dtype={experiment.compute_dtype!r}: auto, float32 or bfloat16")


def check_choices(config: Any, choices: Mapping[str, Sequence[str]], where: str = "config.method") -> None:
    """Refuses fields with a value that is not among their choices. choices: {"section.field": allowed values}.

    Raises:
      VtjaxError: naming the field, its value and the nearest allowed one.
    """
    for path, allowed in choices.items():
        value = operator.attrgetter(path)(config)
        if value not in allowed:
            raise VtjaxError(f"{where}.{path}={value!r}: {nearest(str(value), allowed)}")


def check_positive(config: Any, fields: Mapping[str, Sequence[str]], where: str = "config.method") -> None:
    """Refuses numbers that are not above zero. fields: {"section": names of its fields}.

    Raises:
      VtjaxError: naming the field and its value.
    """
    for section, names in fields.items():
        for name in names:
            value = getattr(getattr(config, section), name)
            if not value > 0:
                raise VtjaxError(f"{where}.{section}.{name}={value}: must be positive")


def load_config_file(spec: str) -> Experiment:
    """`path/to/file.py[:variant]` to its Experiment, for Python callers; the mains use config_flags for the same.

    Raises:
      VtjaxError: the file or its get_config is missing, or the variant is unknown.
    """
    path, _, variant = spec.partition(":")
    if not pathlib.Path(path).is_file():
        raise VtjaxError(f"--config={spec}: no file {path!r}; for example configs/car.py or configs/car.py:smoke")
    module_spec = importlib.util.spec_from_file_location("vtjax_user_config", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise VtjaxError(f"{path}: has no get_config(variant) function")
    return module.get_config(variant) if variant else module.get_config()


def variant_of(variant: str, table: dict[str, Any]) -> Any:
    """The entry of `table` for a config file's variant.

    Raises:
      VtjaxError: unknown variant, with the nearest or all known.
    """
    if variant not in table:
        raise VtjaxError(f"no variant {variant!r} in this config; {nearest(variant, table)}")
    return table[variant]
