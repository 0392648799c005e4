"""The methods, one folder each. A method plugs into the one training loop with the modules named here.

config.py    CONFIG and STAGES: the dataclasses of Experiment.method and Experiment.stages
pipeline.py  stages(experiment, work) -> ordered {name: build() -> Task}; abstract(experiment) -> the last stage's Task
             without its data: example_spec, init, loss and rules. It reads and writes nothing, and its loss is the very
             one that is trained, so that vtjax.plan compiles, and vtjax.bench times, the very train step. LEVERS: {field of the
             experiment: its values, the cheapest to run first}, what vtjax.plan may vary to make a step fit: settings
             that change memory and speed and not what is learnt.
evaluate.py  evaluate(run, ...) -> results
predict.py   predict(run, ...) and command-line use
stream.py    open_stream(run, ...), where a method scores live sources
"""

from __future__ import annotations

import importlib.util
import pkgutil
import types

from vtjax.errors import VtjaxError, nearest


def names() -> list[str]:
    """Methods that this installation has."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)


def module(method: str, part: str) -> types.ModuleType:
    """Module `part` (config, pipeline, evaluate, predict) of a method.

    Raises:
      VtjaxError: unknown method.
    """
    if method not in names():
        raise VtjaxError(f"config.name={method!r}: no such method; {nearest(method, names())}")
    return importlib.import_module(f"vtjax.methods.{method}.{part}")


def has(method: str, part: str) -> bool:
    """Whether a method has a module of this name."""
    return importlib.util.find_spec(f"vtjax.methods.{method}.{part}") is not None


def config_types(method: str) -> tuple[type, type]:
    """The dataclasses of a method's settings and of its earlier stages."""
    config = module(method, "config")
    return config.CONFIG, config.STAGES
