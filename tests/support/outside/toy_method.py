"""A method of another package: which side of a line points lie on, by logistic regression."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.config import positive
from vtjax.evals.classification import top_rates
from vtjax.methods.method import Method, Stage
from vtjax.report.answer import Answer
from vtjax.report.page import Page, Tile
from vtjax.training.task import Task


@dataclasses.dataclass
class ToyConfig:
    width: int = positive(2)  # numbers of a point
    points: int = positive(64)  # to learn from


def points(config, seed):
    x = np.random.default_rng(seed).normal(size=(config.points, config.width)).astype(np.float32)
    return x, (x.sum(axis=1) > 0).astype(np.int32)


@dataclasses.dataclass
class Points:
    x: np.ndarray
    y: np.ndarray

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"x": self.x[index], "y": self.y[index]}


def example(record, rng):
    return record


def logits(params, x):
    return jnp.matmul(x, params["kernel"], precision="highest")


def loss(params, batch, rng, train):
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(params, batch["x"])), batch["y"][:, None], axis=1)
    return {"loss": (-jnp.sum(chosen), jnp.asarray(len(chosen), jnp.float32))}


def abstract(experiment):
    spec = {"x": jax.ShapeDtypeStruct((experiment.method.width,), jnp.float32), "y": jax.ShapeDtypeStruct((), jnp.int32)}
    start = lambda rng, batch: {"kernel": jax.random.normal(rng, (batch["x"].shape[-1], 2))}
    return Task("toy", experiment.train, experiment.optim, spec, start, loss, rules=((r"kernel", (None, None)),))


def build(experiment, work):
    source = Points(*points(experiment.method, experiment.seed))
    return dataclasses.replace(abstract(experiment), source=source, transform=example, fingerprint="points")


def evaluate(run, *, split: str = ""):
    x, y = points(run.experiment.method, 1)
    return [top_rates(np.asarray(run.model(run.params, x)), y, "sides/all", top=(1,))]


def predict(run, *, point: str = "0,0") -> list[float]:
    """Tells the probability of both sides.

    Args:
      point: Numbers with commas between.
    """
    row = np.array([[float(n) for n in point.split(",")]], np.float32)
    return np.asarray(jax.nn.softmax(run.model(run.params, row)))[0].tolist()


def answer(run, given, shares):
    lines = [f"side {i}: {share:.3f}" for i, share in enumerate(shares)]
    return Answer(lines, {"point": given["point"], "shares": shares}, ("side", "share"), list(enumerate(shares)), Page("Sides"))


def page(run, results):
    return Page("Sides of a line").tiles(results, [Tile("sides/all", "top-1", "Right side")]).curves(run.work)


def method():
    stages = {"train": Stage(build, abstract)}
    return Method("toy", "a line", ToyConfig, stages, lambda e, work: jax.jit(logits), evaluate, predict, answer, page)
