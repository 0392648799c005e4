"""A released ChronAccRet checkpoint: TMR's towers and the language model, in one tree (car.md section 8).

It fits a run with the language model in the graph (config.method.text.trainable or .frozen_dropout); `--kind=tmr` takes
the towers alone, for cached states.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtjax.config import from_dict, to_dict
from vtjax.errors import VtjaxError
from vtjax.nn.bert import BertConfig
from vtjax.weights import bert, tmr
from vtjax.weights.kinds import tmr as towers
from vtjax.weights.kinds.bert import config_from_tensors, random_params
from vtjax.weights.options import Loaded, Options
from vtjax.weights.report import MatchReport
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source, Tensors

_PREFIX = tmr.LANGUAGE_MODEL_PREFIX


def detect(source: Source) -> bool:
    """Whether its tensors are TMR's towers beside a language model."""
    return towers.is_towers(source) and any(name.startswith(_PREFIX) for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """Towers and `language_model`."""
    language = Tensors(source.tensors, {n.removeprefix(_PREFIX): n for n in source.tensors if n.startswith(_PREFIX)})
    if not len(language):
        raise VtjaxError(f"{source.path}: no language model ({_PREFIX}*) in it; --kind=tmr takes towers alone")
    rest = Tensors(source.tensors, {n: n for n in source.tensors if not n.startswith(_PREFIX)})
    params, config, of_towers = towers.load_towers(rest, str(source.path), options)
    lm = config_from_tensors({name: language.shape(name) for name in language}, str(source.path))
    expected = {theirs: (ours,) for ours, theirs in bert.key_map(lm)}
    done = language.reconcile(expected, lambda: bert.to_hf(lm, random_params(lm)), options.allow)
    dtype = np.dtype(options.dtype or "float32")
    params["language_model"], result = bert.from_hf(lm, language, str(source.path), dtype)
    found = done.amend(result)
    both = MatchReport(
        (*of_towers.matched, *found.matched), (*of_towers.unused, *found.unused),
        (*of_towers.missing, *found.missing), (),
    )  # fmt: skip
    return Loaded(params, {"method": to_dict(config), "language_model": to_dict(lm)}, both, language.published_dtype())


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """model.safetensors with the released names."""
    lm = from_dict(BertConfig, dict(config["language_model"]))
    tensors = {_PREFIX + name: value for name, value in bert.to_hf(lm, params["language_model"]).items()}
    tensors |= tmr.to_tensors({name: tree for name, tree in params.items() if name != "language_model"})
    write_safetensors(pathlib.Path(folder) / "model.safetensors", tensors)
