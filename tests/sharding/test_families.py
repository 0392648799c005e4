"""Every family of models trains the same on one device, on eight, and on 2 x 2 x 2.

The step is that of the training loop; the batch is made up. One step of plain gradient descent shows the gradients in
the parameters, without Adam's division, which makes rounding of tiny gradients large.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax import methods
from vtjax.bench import random_batch
from vtjax.config import Experiment, Mesh, Optim, load_config_file
from vtjax.methods.llama.config import LlamaConfig, LlamaDataConfig, LlamaModelConfig, LlamaTextConfig
from vtjax.sharding.mesh import global_batch, make_mesh
from vtjax.sharding.partition import flatten
from vtjax.training.step import Trainer

MESHES = {"1": (1, 1, 1), "8": (8, 1, 1), "2x2x2": (2, 2, 2)}
BERT = {
    "model_type": "distilbert", "vocab_size": 64, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32,
    "max_position_embeddings": 64, "dropout": 0.0, "attention_dropout": 0.0, "activation": "gelu", "pad_token_id": 0,
}  # fmt: skip


def car(folder):
    experiment = load_config_file("configs/car.py:smoke")
    experiment.method.model.scan, experiment.method.model.remat = True, "full"
    return experiment


def bert(folder):
    (folder / "config.json").write_text(json.dumps(BERT))
    experiment = load_config_file("configs/car.py:smoke")
    text = experiment.method.text
    text.encoder, text.path, text.trainable, text.width = "bert", str(folder), True, 16
    experiment.method.model.scan, experiment.method.model.remat = True, "dots"
    return experiment


def clip(folder):
    experiment = load_config_file("configs/clip.py:smoke")
    model = experiment.method.model
    model.scan, model.remat, model.parts = True, "dots_no_batch", 2
    return experiment


def llama(folder):
    model = LlamaModelConfig(rank=4, dropout=0.0, frozen_dtype="float32", remat="full")
    return Experiment("llama", LlamaConfig(model, LlamaTextConfig(max_tokens=24, chunk=8), LlamaDataConfig()))


def ovoad(folder):
    experiment = load_config_file("configs/ovoad.py:smoke")
    model = experiment.method.model
    # Rounding would decide which of two equal groups a frame is in, and the ends of a mask that is nearly flat.
    model.hard = model.gumbel = False
    experiment.method.loss.mask_squash = "sigmoid"
    return experiment


FAMILIES = {"car": car, "bert": bert, "clip": clip, "llama": llama, "ovoad": ovoad}
# Compiling the others for eight devices takes half a minute each; CAR's and CLIP's own tests have meshes, too.
QUICK = [pytest.param(name, marks=() if name == "llama" else pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """(family, mesh) -> (trainer, state after one step, metrics), each made once."""
    made = {}

    def step(family, mesh):
        if (family, mesh) not in made:
            experiment = FAMILIES[family](tmp_path_factory.mktemp(family))
            # OV-OAD's gradients of texts are sums over 320 of them and four losses, and so is their rounding.
            experiment.optim = Optim("sgd", learning_rate=0.02 if family == "ovoad" else 0.1)
            experiment.train = dataclasses.replace(experiment.train, steps=2, batch_size=16)
            shape = MESHES[mesh]
            devices = jax.devices()[: int(np.prod(shape))]
            task = methods.get(experiment.name).abstract(experiment)
            trainer = Trainer(task, make_mesh(Mesh(*shape), devices), seed=3)
            batch = global_batch(random_batch(task.batch_spec()), trainer.batch_sharding)
            state, metrics = trainer.lower().compile()(trainer.init_state(), batch)
            made[family, mesh] = trainer, state, jax.device_get(metrics)
        return made[family, mesh]

    return step


@pytest.mark.parametrize("mesh", [pytest.param("8", marks=pytest.mark.slow), "2x2x2"])
@pytest.mark.parametrize("family", QUICK)
def test_loss_and_updated_parameters_do_not_depend_on_the_mesh(family, mesh, stepped):
    _, alone, expected = stepped(family, "1")
    trainer, state, metrics = stepped(family, mesh)
    for name, (total, weight) in expected.items():
        np.testing.assert_allclose(metrics[name][0], total, rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(metrics[name][1], weight, rtol=1e-6)
    moved = 0.0
    for name, leaf in flatten(alone["trainable"]).items():
        np.testing.assert_allclose(flatten(state["trainable"])[name], leaf, atol=1e-5, rtol=1e-5, err_msg=name)
        moved = max(moved, float(jnp.abs(flatten(alone["opt_state"])[_moment(alone, name)]).max()))
    assert moved > 1e-3, "there is a gradient to compare"
    assert len({d for leaf in jax.tree.leaves(state["trainable"]) for d in leaf.sharding.device_set}) == 8


def _moment(state, name):
    return next(path for path in flatten(state["opt_state"]) if path.endswith(f"/trace/{name}"))


@pytest.mark.parametrize("family", QUICK)
def test_optimizer_state_is_laid_as_its_parameters(family, stepped):
    trainer, state, _ = stepped(family, "2x2x2")
    params, split = flatten(state["trainable"]), 0
    for path, leaf in flatten(state["opt_state"]).items():
        name = next((n for n in params if path.endswith(f"/{n}")), None)
        if name is not None:
            assert leaf.sharding.is_equivalent_to(params[name].sharding, leaf.ndim), path
            split += not leaf.sharding.is_fully_replicated
    assert split > 3
