"""Layouts of published weights, by name: how each is recognised, read and written. A layout's module is imported when
used.

`BY_SETTINGS` and `BY_NAMES` are the families of this room. Those of a method's own parameters are `Method.layouts`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from vtjax.errors import VtjaxError
from vtjax.weights.report import MatchReport


@dataclasses.dataclass(frozen=True)
class Allow:
    """Holds regular expressions over complete tensor names, as the report prints them.

    Attributes:
      missing: parameters without a published tensor keep random initial values.
      unused: tensors that are left out.

    Raises:
      VtjaxError: not a regular expression.
    """

    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*self.missing, *self.unused):
            try:
                re.compile(pattern)
            except re.error as error:
                raise VtjaxError(f"{pattern!r} is not a regular expression ({error})") from error


@dataclasses.dataclass(frozen=True)
class Options:
    """Holds what the user asks for.

    Attributes:
      allow: misfits that were named.
      dtype: of parameters; "" is the layout's usual one.
      base: peft only, folder or hub id of the model.
      activation: clip only, for files that do not say it.
      scan_layers: clip only, stack a tower's layers.
    """

    allow: Allow = Allow()
    dtype: str = ""
    base: str = ""
    activation: str = ""
    scan_layers: bool = False


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Holds what was loaded.

    Attributes:
      params: nested dict.
      config: what `save` needs, as JSON.
      report: of the tensors.
      published_dtype: theirs, or "" where it does not matter.
      notes: lines for the user.
    """

    params: Mapping[str, Any]
    config: dict[str, Any]
    report: MatchReport
    published_dtype: str = ""
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
    """Describes one layout of published weights.

    Attributes:
      name: in one word, as --kind takes it.
      about: in one line, for --help.
      detect: (vtjax.weights.source.Source) -> whether it has this layout, by its files, settings and tensor names.
      load: (source, options) -> parameters and what describes them.
      save: (folder, config, params); writes the published layout, in safetensors, from `Loaded.config` and parameters.
    """

    name: str
    about: str
    detect: Callable[[Any], bool]
    load: Callable[[Any, Options], Loaded]
    save: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], None]


def lazy(module: str, name: str, about: str, suffix: str = "") -> Layout:
    """Makes the layout whose functions are detect, load and save of a module, imported when one is called.

    Args:
      module: its full name. name, about: as in Layout. suffix: of the functions' names, where a module has those of
        several layouts.
    """

    def part(function: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(importlib.import_module(module), function + suffix)(*arguments)

    return Layout(name, about, part("detect"), part("load"), part("save"))


def _family(name: str, about: str) -> Layout:
    return lazy(f"vtjax.weights.{name}", name, about)


# Recognised by files and settings.
BY_SETTINGS = (
    _family("pite", "PiTe, VTimeLLM: a stage's folder or the folder of all: LoRA, projectors; --base as for peft"),
    _family("peft", "LoRA adapter in PEFT's layout; --base names the model that it is for"),
    _family("llama", "LLaMA, Vicuna: Hugging Face's layout"),
    _family("bert", "BERT, DistilBERT, RoBERTa, MPNet: Hugging Face's layout"),
)
# Recognised by the names of tensors too. X-CLIP has CLIP's names among its own, so CLIP comes last.
BY_NAMES = (
    _family("tan", "TAN, the temporal alignment network (also of MPTVA): video and sentences to times"),
    _family("xclip", "X-CLIP: the released .pth, or Hugging Face's layout"),
    _family("clip", "CLIP in Hugging Face's, OpenAI's or open_clip's layout"),
)
FAMILIES = {layout.name: layout for layout in (*BY_SETTINGS, *BY_NAMES)}
