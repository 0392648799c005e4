"""Sides of a line: python -m vtjax.train --config=toy.py"""

from toy_method import ToyConfig

from vtjax.config import Experiment, Optim, Train


def get_config(variant="demo"):
    train = Train(steps=20, batch_size=16, log_every=5, checkpoint_every=10)
    return Experiment("toy", ToyConfig(), optim=Optim(learning_rate=0.1), train=train)
