"""What `python -m vtjax.convert` knows: one module per kind of published checkpoint, imported when it is asked for.

A kind's module has three functions:

  detect(source) -> bool             whether a `Source` is of this kind, from its settings and tensor names
  load(source, options) -> Loaded    parameters and what describes them
  save(folder, config, params)       the published layout, in safetensors, from `Loaded.config` and parameters

Kinds are tried in the order of the table: first those that files and settings tell, then those that tensors' names do.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtjax.convert.report import MatchReport
from vtjax.errors import VtjaxError, nearest

if TYPE_CHECKING:
    from vtjax.convert.source import Source

KINDS = {
    "peft": "LoRA adapter in PEFT's layout; --base names the model that it is for",
    "llama": "LLaMA, Vicuna: Hugging Face's layout",
    "bert": "BERT, DistilBERT, RoBERTa, MPNet: Hugging Face's layout",
    "tmr": "TMR: motion_encoder.pt, text_encoder.pt and motion_decoder.pt, or one file with all three",
    "car": "Chronologically Accurate Retrieval: one state dict with its language model",
    "clip": "CLIP in Hugging Face's, OpenAI's or open_clip's layout",
}


@dataclasses.dataclass(frozen=True)
class Allow:
    """Regular expressions over whole tensor names, as the report prints them.

    missing: parameters without a published tensor keep random initial values. unused: tensors that are left out.

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
    """allow: misfits that were named. dtype: of parameters; "" is the kind's own. base: peft only, folder or hub id of
    the model. activation: clip only, for files that do not say it. scan_layers: clip only, stack a tower's layers."""

    allow: Allow = Allow()
    dtype: str = ""
    base: str = ""
    activation: str = ""
    scan_layers: bool = False


@dataclasses.dataclass(frozen=True)
class Loaded:
    """params: nested dict. config: what `save` needs, as JSON. report: of the tensors. published_dtype: theirs, or ""
    where it does not matter. notes: lines for the user."""

    params: Mapping[str, Any]
    config: dict[str, Any]
    report: MatchReport
    published_dtype: str = ""
    notes: tuple[str, ...] = ()


def module(kind: str) -> types.ModuleType:
    """A kind's module.

    Raises:
      VtjaxError: unknown kind.
    """
    if kind not in KINDS:
        raise VtjaxError(f"kind {kind!r}: {nearest(kind, KINDS)}")
    return importlib.import_module(f"vtjax.convert.kinds.{kind}")


def detect(source: Source) -> str:
    """The first kind that a source is of.

    Raises:
      VtjaxError: none; what was looked at is named.
    """
    for kind in KINDS:
        if module(kind).detect(source):
            return kind
    seen = "no settings and no single file of weights"
    if "model_type" in source.settings:
        seen = f"model_type {source.settings['model_type']!r} in its config.json"
    elif source.names:
        seen = f"tensors {', '.join(source.names[:4])}, ..."
    raise VtjaxError(f"{source.path}: of no known kind ({seen}); give --kind, one of {', '.join(KINDS)}")
