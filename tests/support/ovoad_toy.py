"""A small OV-OAD and inputs for it. Everything is compiled as a whole, which is most of the time otherwise."""

import functools

import jax
import numpy as np

from vtjax.methods.ovoad.config import OvoadConfig, OvoadModelConfig, OvoadTextConfig
from vtjax.methods.ovoad.task import OvoadObjective
from vtjax.nn.clip import ClipConfig, TextConfig
from vtjax.nn.vit import VisionConfig

SMALL = ClipConfig(12, VisionConfig(8, 4, 16, 1, 2, 16), TextConfig(30, 6, 12, 1, 2, 24))


def small(**model) -> OvoadConfig:
    sizes = dict(
        width=16, past=6, near=4, heads=2, dntr_layers=1, cluster_layers=1, group_layers=1, groups=4,
        project_hidden=8, joint_width=8,
    )  # fmt: skip
    return OvoadConfig(model=OvoadModelConfig(**{**sizes, **model}), text=OvoadTextConfig(adapter=3))


def batch_of(config, sizes, count=2):
    return {n: np.zeros((count, *s.shape), s.dtype) for n, s in OvoadObjective(config, sizes).example_spec().items()}


def shapes(config, sizes):
    return jax.eval_shape(OvoadObjective(config, sizes).init, jax.random.key(0), batch_of(config, sizes))


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def params_of(config, sizes=SMALL, seed=0):
    """Random, with group tokens far from each other, so that rounding does not decide what a mask is."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) * 0.3, shapes(config, sizes))
    if config.model.clustering:
        params["visual"]["group_token"] *= 10
        if config.model.unit == "grouping":
            params["visual"]["unit"]["mix"] = jax.tree.map(lambda p: 3 * p, params["visual"]["unit"]["mix"])
    return params


def window(config, count=2, seed=1):
    model = config.model
    length = model.long + model.past + model.near
    x = np.random.default_rng(seed).normal(size=(count, length, model.width)).astype(np.float32)
    return x, np.ones(x.shape[:2], bool)


def encode(config, params, x, valid):
    return jax.jit(OvoadObjective(config, SMALL).encode_window)(params, x, valid)


def texts(config, params, ids):
    """joint and current as float64."""
    run = jax.jit(OvoadObjective(config, SMALL).encode_text)
    return tuple(np.asarray(v, np.float64) for v in run(params, ids.reshape(-1, ids.shape[-1])))


def loss(config, params, batch, seed=0, train=False):
    run = jax.jit(functools.partial(OvoadObjective(config, SMALL).loss, train=train))
    return jax.device_get(run(params, batch, jax.random.key(seed)))
