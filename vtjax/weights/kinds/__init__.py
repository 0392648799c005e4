"""What `python -m vtjax.convert` knows: one module per kind of published checkpoint, imported when it is asked for.

A kind's module has three functions:

  detect(source) -> bool             whether a `Source` is of this kind, from its settings and tensor names
  load(source, options) -> Loaded    parameters and what describes them
  save(folder, config, params)       the published layout, in safetensors, from `Loaded.config` and parameters

Kinds are tried in the order of the table: first those that files and settings tell, then those that tensors' names do.
"""

from __future__ import annotations

import importlib
import types
from typing import TYPE_CHECKING

from vtjax.errors import VtjaxError, nearest

if TYPE_CHECKING:
    from vtjax.weights.source import Source

KINDS = {
    "pite": "PiTe, VTimeLLM: a stage's folder or the folder of all: LoRA, projectors; --base as for peft",
    "peft": "LoRA adapter in PEFT's layout; --base names the model that it is for",
    "llama": "LLaMA, Vicuna: Hugging Face's layout",
    "bert": "BERT, DistilBERT, RoBERTa, MPNet: Hugging Face's layout",
    "tmr": "TMR: motion_encoder.pt, text_encoder.pt and motion_decoder.pt, or one file with all three",
    "car": "Chronologically Accurate Retrieval: one state dict with its language model",
    "tan": "TAN, the temporal alignment network (also of MPTVA): video and sentences to times",
    "xclip": "X-CLIP: the released .pth, or Hugging Face's layout",
    "groupvit": "GroupViT: the released .pth, or Hugging Face's layout",
    "ovoad": "OV-OAD: the released grammar, encoder with one cross attention (config.method.model.dntr=encoder_xattn)",
    "clip": "CLIP in Hugging Face's, OpenAI's or open_clip's layout",
}
OF_METHODS = ("clip", "tmr", "car", "ovoad")  # whose parameters are those of a method's run


def module(kind: str) -> types.ModuleType:
    """A kind's module.

    Raises:
      VtjaxError: unknown kind.
    """
    if kind not in KINDS:
        raise VtjaxError(f"kind {kind!r}: {nearest(kind, KINDS)}")
    return importlib.import_module(f"vtjax.weights.kinds.{kind}")


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
