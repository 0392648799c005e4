"""Released TMR: three files, or one state dict with the towers' names as prefixes (car.md section 8)."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vtjax.config import to_dict
from vtjax.errors import VtjaxError
from vtjax.methods.car.config import CarConfig, CarModelConfig, CarTextConfig
from vtjax.trees import flatten, unflatten
from vtjax.weights import streaming, tmr, torch_reader
from vtjax.weights.options import Loaded, Options
from vtjax.weights.report import MatchReport
from vtjax.weights.safetensors_io import write_safetensors
from vtjax.weights.source import Source, Tensors

LANGUAGE_MODEL = tmr.LANGUAGE_MODEL_PREFIX


def detect(source: Source) -> bool:
    """Whether it has TMR's files, or its tensors a motion encoder's names and no language model."""
    if _folder(source) is not None:
        return True
    return is_towers(source) and not any(name.startswith(LANGUAGE_MODEL) for name in source.names)


def is_towers(source: Source) -> bool:
    """Whether its tensors have the motion encoder's names."""
    return any(name.startswith("motion_encoder.seqTransEncoder.") for name in source.names)


def load(source: Source, options: Options) -> Loaded:
    """The towers of methods/car; of a CAR checkpoint without its language model."""
    folder = _folder(source)
    weights = source.tensors if folder is None else streaming.ArrayWeights(_join(folder))
    tensors = Tensors(weights, {n: n for n in weights if not n.startswith(LANGUAGE_MODEL)})
    left = [n for n in weights if n.startswith(LANGUAGE_MODEL)]
    params, config, result = load_towers(tensors, str(source.path), options)
    notes = (f"its language model, {len(left)} tensors, was left out; --kind=car keeps it",) if left else ()
    return Loaded(params, to_dict(config), result, tensors.published_dtype(), notes)


def load_towers(tensors: Tensors, where: str, options: Options) -> tuple[dict[str, Any], CarConfig, MatchReport]:
    """Towers, the method's settings that they are of, and the report, from tensors with tower prefixes."""
    config = config_from_tensors({name: tensors.shape(name) for name in tensors}, where)
    shapes = tower_shapes(config)
    zeros = unflatten({n: np.broadcast_to(np.float32(0), x.shape) for n, x in flatten(shapes).items()})
    expected = {name: () for name in tmr.to_tensors(zeros)}
    done = tensors.reconcile(expected, lambda: tmr.to_tensors(_random_towers(config)), options.allow)
    params = tmr.load(tensors, shapes, where)
    dtype = np.dtype(options.dtype or "float32")
    params = unflatten({name: x.astype(dtype) for name, x in flatten(params).items()})
    return params, config, done.amend(MatchReport(tuple(expected), (), (), ()))


def save(folder: Any, config: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """model.safetensors with the released names."""
    write_safetensors(pathlib.Path(folder) / "model.safetensors", tmr.to_tensors(params))


def config_from_tensors(shapes: Mapping[str, tuple[int, ...]], where: str) -> CarConfig:
    """Sizes of the towers; the tensors do not tell the number of heads, which is 4 in all that was released.

    Raises:
      VtjaxError: a tensor is missing that a size is read from.
    """
    try:
        latent, width = shapes["motion_encoder.projection.weight"]
        layer = "motion_encoder.seqTransEncoder.layers.0."
        layers = {m[1] for n in shapes if (m := re.match(r"motion_encoder\.seqTransEncoder\.layers\.(\d+)\.", n))}
        model = CarModelConfig(
            motion_width=width,
            latent=latent,
            layers=len(layers),
            ff=shapes[layer + "linear1.weight"][0],
            vae=shapes["motion_encoder.tokens"][0] == 2,
        )
        text = CarTextConfig(width=shapes["text_encoder.projection.weight"][1])
    except (KeyError, ValueError) as error:
        raise VtjaxError(f"{where}: no tensor {error}, so not a released checkpoint of TMR or CAR") from error
    return CarConfig(model=model, text=text)


def _folder(source: Source) -> pathlib.Path | None:
    """Where TMR's files are: the folder itself or its last_weights."""
    folders = (source.path, source.path / "last_weights") if source.path.is_dir() else ()
    return next((f for f in folders if (f / "motion_encoder.pt").is_file()), None)


def _join(folder: pathlib.Path) -> dict[str, np.ndarray]:
    files = {tower: folder / f"{tower}.pt" for tower in tmr.TOWERS}
    return tmr.join_files({tower: torch_reader.read_state_dict(path) for tower, path in files.items()})


def tower_shapes(config: CarConfig) -> dict[str, Any]:
    """Shapes and dtypes of the towers' parameters, from the module itself."""
    import jax

    return _towers(jax.eval_shape(_init(config)))


def _random_towers(config: CarConfig) -> dict[str, Any]:
    import jax

    return _towers(jax.jit(_init(config))())


def _towers(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tree[name] for name in tmr.TOWERS if name in tree}


def _init(config: CarConfig) -> Callable[[], dict[str, Any]]:
    import jax
    import jax.numpy as jnp

    from vtjax.methods.car.task import CarObjective

    batch = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in CarObjective(config).example_spec().items()}
    return lambda: CarObjective(config).init(jax.random.key(0), batch)
