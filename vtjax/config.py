"""The one configuration type: typed dataclasses, overridden by `--config.optim.learning_rate=3e-4`, kept as JSON.

A file under configs/ has `get_config(variant) -> Experiment`. The method's own settings are `Experiment.method`, a
dataclass of that method; `Experiment.optim` and `Experiment.train` drive its last stage, `Experiment.stages` (a
dataclass of `Stage` fields, in order) those before it.

Modules that define such dataclasses must not postpone annotations: config_flags reads the types off the fields.
"""

import dataclasses
import importlib.util
import inspect
import json
import operator
import pathlib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from vtjax.errors import VtjaxError, nearest
from vtjax.files import write_atomically


def choice(*values: str) -> Any:
    """Declares a field that is one of `values`, by default the first."""
    return dataclasses.field(default=values[0], metadata={"choices": values})


def number(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declares a field that is a number within bounds."""
    bounds = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    return dataclasses.field(default=default, metadata={"bounds": {k: v for k, v in bounds.items() if v is not None}})


def positive(default: Any) -> Any:
    """Declares a field that is a number above 0."""
    return number(default, above=0)


def share(default: float) -> Any:
    """Declares a field that is a number of at least 0 and below 1."""
    return number(default, at_least=0, below=1)


@dataclasses.dataclass
class Optim:
    """Optimizer and schedule, built from optax in training/optim.py."""

    name: str = choice("adamw", "adam", "sgd", "lion")  # optimizer
    learning_rate: float = number(1e-4, at_least=0)  # its peak
    schedule: str = choice("constant", "cosine", "linear")  # after the warm-up
    warmup_steps: int = number(0, at_least=0)  # over which the learning rate rises linearly
    final_ratio: float = number(0.0, at_least=0, at_most=1)  # learning rate at the last step over its peak
    betas: tuple[float, ...] = (0.9, 0.999)  # decay of the first and of the second moment
    eps: float = positive(1e-8)  # added to the root of the second moment
    weight_decay: float = number(0.01, at_least=0)  # decoupled, of adamw and lion
    no_decay: str = ""  # regular expression of parameter paths without weight decay
    clip_norm: float = number(0.0, at_least=0)  # largest norm of the gradient; 0 is off
    rates: tuple[str, ...] = ()  # "regex=multiplier" of the learning rate, first match wins
    state_dtype: str = "float32"  # of the first moment


@dataclasses.dataclass
class Train:
    """One run of the training loop."""

    steps: int = number(1000, at_least=1)  # of the optimizer
    batch_size: int = number(32, at_least=1)  # global, over all hosts and devices
    accumulate: int = number(1, at_least=1)  # micro-batches per step; must divide batch_size
    trainable: str = ".*"  # regular expression of the parameter paths that learn; the rest is frozen
    initial: str = ""  # checkpoint or work directory to start from; "" is random
    log_every: int = number(20, at_least=1)  # steps between lines of metrics
    eval_every: int = number(0, at_least=0)  # steps between evaluations; 0: at the end only
    checkpoint_every: int = number(200, at_least=0)  # steps between checkpoints; 0: at the end only
    checkpoint_seconds: float = 0.0  # also save when this long has passed; 0 is off
    keep: int = number(2, at_least=1)  # latest checkpoints kept, besides the best
    keep_every: int = 0  # also save at the steps that this divides, and never remove those; 0 is off
    best: tuple[str, ...] = ()  # "protocol/metric" to keep the best checkpoint of each; larger is better
    profile_steps: tuple[int, ...] = ()  # (first, last): a jax.profiler trace into the work directory


@dataclasses.dataclass
class Loader:
    """How batches are read; none of it changes what is read."""

    workers: int = number(0, at_least=0)  # worker processes; 0 reads in threads of this one
    threads: int = number(4, at_least=1)  # that read examples, in this process or in each worker
    prefetch: int = number(4, at_least=1)  # batches read ahead


@dataclasses.dataclass
class Mesh:
    """Devices by axis. -1 once: what is left."""

    data: int = -1  # copies of the model; -1: all devices that are left
    fsdp: int = 1  # ways that parameters and the batch are split over
    tensor: int = 1  # ways that the layers themselves are split over
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
    seed: int = 0  # of parameters, data order and noise
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)
    stages: Any = dataclasses.field(default_factory=Stages)
    loader: Loader = dataclasses.field(default_factory=Loader)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    # Of matmul inputs; auto is bfloat16 on accelerators and float32 on CPUs.
    compute_dtype: str = choice("auto", "float32", "bfloat16")


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
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
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


def experiment_from(values: dict[str, Any], method: type, stages: type, where: str) -> Experiment:
    """Builds an Experiment from the fields of `read_fields`; absent ones are at their defaults.

    Args:
      values: as `read_fields` gives them.
      method: dataclass of the method's settings. stages: that of its earlier stages.
      where: the file, for messages.

    Raises:
      VtjaxError: an unknown field or a value of the wrong type, with its path.
    """
    hints = typing.get_type_hints(Experiment)
    for name in values:
        if name not in hints:
            raise VtjaxError(f"{where}: config.{name}: no such field in Experiment; {nearest(name, hints)}")
    kinds = hints | {"method": method, "stages": stages}
    return Experiment(**{name: _cast(kinds[name], value, f"config.{name}") for name, value in values.items()})


def check(experiment: Experiment) -> None:
    """Refuses values out of the bounds and choices of their fields, and settings of the loop that contradict another.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    check_fields(experiment)
    for prefix, stage in [("config", experiment)] + [
        (f"config.stages.{f.name}", getattr(experiment.stages, f.name)) for f in dataclasses.fields(experiment.stages)
    ]:
        train, optim = stage.train, stage.optim
        if train.batch_size % train.accumulate:
            raise VtjaxError(
                f"{prefix}.train.accumulate={train.accumulate} does not divide batch_size={train.batch_size}"
            )
        if optim.warmup_steps > train.steps:
            raise VtjaxError(f"{prefix}.optim.warmup_steps={optim.warmup_steps} exceeds train.steps={train.steps}")
        if len(optim.betas) != 2:
            raise VtjaxError(f"{prefix}.optim.betas={optim.betas}: two numbers are needed")


_TESTS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}


def check_fields(config: Any, where: str = "config") -> None:
    """Refuses values out of the bounds or choices that the fields of a dataclass tree declare.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{where}.{field.name}"
        choices, bounds = field.metadata.get("choices"), field.metadata.get("bounds", {})
        if choices and value not in choices:
            raise VtjaxError(f"{path}={value!r}: {nearest(str(value), choices)}")
        if not all(_TESTS[kind](value, limit) for kind, limit in bounds.items()):
            raise VtjaxError(f"{path}={value}: {_in_words(bounds)}")
        if dataclasses.is_dataclass(value):
            check_fields(value, path)


def _in_words(bounds: Mapping[str, float]) -> str:
    if len(bounds) == 2:
        low, high = ("[", "(")["above" in bounds], ("]", ")")["below" in bounds]
        return f"lies in {low}{', '.join(f'{limit:g}' for limit in bounds.values())}{high}"
    words = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}
    if bounds == {"above": 0}:
        return "must be positive"
    if bounds == {"at_least": 0}:
        return "must not be negative"
    return "must be " + " and ".join(f"{words[kind]} {limit:g}" for kind, limit in bounds.items())


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a configuration as --help shows it; about is the comment beside it in the source."""

    path: str
    kind: str
    value: Any
    about: str


def settings(config: Any, prefix: str = "config") -> list[Setting]:
    """Lists every field of a dataclass tree with its value and the comment that stands beside it."""
    comments, listed = _comments(type(config)), []
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(value):
            listed += settings(value, path)
            continue
        about = comments.get(field.name, "")
        choices, bounds = field.metadata.get("choices"), field.metadata.get("bounds", {})
        if choices and not all(choice in about for choice in choices):
            about = f"{' | '.join(choices)}. {about}".rstrip(". ")
        if bounds:
            about = f"{about}{'; ' if about else ''}{_in_words(bounds)}"
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        listed.append(Setting(path, "list" if "tuple" in kind else kind, value, about))
    return listed


def _comments(kind: type) -> dict[str, str]:
    """The comment of each field of a dataclass: on its line and going on below, or else above it."""
    try:
        lines = inspect.getsource(kind).splitlines()
    except (OSError, TypeError):
        return {}
    comments: dict[str, str] = {}
    name = ""  # the last field
    between: list[str] = []  # lines of comment since
    for line in lines:
        field, comment = re.match(r"    (\w+): ", line), re.search(r"(?:^|\s)# (.*)", line)
        text = comment[1].strip() if comment else ""
        if field:
            if text and name:
                comments[name] = " ".join([comments[name], *between]).strip()
            comments[field[1]] = text or " ".join(between)
            name, between = field[1], []
        elif line.strip().startswith("# "):
            between.append(text)
    if name:
        comments[name] = " ".join([comments[name], *between]).strip()
    return comments


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
