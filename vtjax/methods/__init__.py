"""The methods, one folder each, and those that other packages register; `method.py` says what a method is."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import pathlib
import pkgutil
from typing import TYPE_CHECKING

from vtjax import config
from vtjax.errors import VtjaxError, nearest

if TYPE_CHECKING:
    from vtjax.methods.method import Method
    from vtjax.weights.layout import Layout

GROUP = "vtjax.methods"  # of entry points


@functools.cache
def _entries() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)}


def names() -> list[str]:
    """Lists the methods of this package and of those that are installed beside it."""
    return sorted({m.name for m in pkgutil.iter_modules(__path__) if m.ispkg} | set(_entries()))


@functools.cache
def get(name: str) -> Method:
    """Imports a method.

    Raises:
      VtjaxError: there is none of this name (the nearest is named), or a package gives something that is no Method.
    """
    from vtjax.methods.method import Method

    if name not in names():
        raise VtjaxError(f"config.name={name!r}: no such method; {nearest(name, names())}")
    entry = _entries().get(name)
    make = entry.load() if entry else importlib.import_module(f"{__name__}.{name}").method
    method = make()
    if not isinstance(method, Method) or method.name != name:
        source = entry.value if entry else f"{__name__}.{name}:method"
        raise VtjaxError(f"{source}: a Method of the name {name!r} is expected, not {method!r:.80}")
    return method


def layouts() -> list[Layout]:
    """Lists the published layouts of the methods' own parameters; those of this package without importing JAX."""
    listed: list[Layout] = []
    for name in names():
        module = f"{__name__}.{name}.export"
        if name in _entries():
            listed += get(name).layouts
        elif importlib.util.find_spec(module):
            listed += importlib.import_module(module).LAYOUTS
    return listed


def check(experiment: config.Experiment) -> None:
    """Refuses an experiment that cannot work, before anything is built.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    config.check(experiment)
    get(experiment.name).check(experiment.method)


def load_experiment(path: pathlib.Path) -> config.Experiment:
    """Reads the configuration of a work directory; a field that its version did not have is at its default.

    Raises:
      VtjaxError: a missing or damaged file, an unknown method, field or type.
    """
    values = config.read_fields(path)
    method = get(values["name"])
    return config.experiment_from(values, method.config, method.stages_config, str(path))
