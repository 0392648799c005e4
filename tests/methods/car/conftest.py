"""A hand-made store of motions, and a tiny published-style language model."""

import numpy as np
import pytest
import text_models
from pages import read_page, walker  # noqa: F401  fixtures

from vtjax.data.motion.clip import Caption, MotionClip
from vtjax.data.motion.store import MotionStore, write_store

WORDS = ("walks", "runs", "jumps", "turns left", "turns right", "then", "and the person")
CAPTIONS = {
    "two": (Caption("a person walks then jumps", ("a person walks", "a person jumps"), sequence="wj"),),
    "three": (
        Caption("a person runs, walks and jumps", ("a person runs", "a person walks", "a person jumps"), 0.0, 1.0, "rwj"),
        Caption("a person turns left then right", ("turns left", "turns right"), 0.5, 2.0, "lr"),
        Caption("a person walks", sequence="w"),
    ),
    "same": (Caption("walks and walks", ("a person walks", "a person walks"), sequence="ww"),),
    "six": (Caption("much", ("a person", "walks", "runs", "jumps", "turns", "left"), sequence="6"),),
    "four": (Caption("a person runs", ("a person runs", "walks", "jumps", "runs"), sequence="rwjr"),),
    "long": (Caption("a person walks then jumps around", ("a person walks", "jumps around"), sequence="wj"),),
}
LENGTHS = {"two": 30, "three": 45, "same": 12, "six": 40, "four": 33, "long": 90}


def clips():
    rng = np.random.default_rng(0)
    for key, captions in CAPTIONS.items():
        features = rng.normal(size=(LENGTHS[key], 263)).astype(np.float32) * 2 + 1
        swapped = rng.normal(size=(LENGTHS[key] + 1, 263)).astype(np.float32) if key in ("two", "three", "long") else None
        yield MotionClip(key, features, captions, (), swapped, (1, 0) if swapped is not None else ())


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "s"
    write_store(folder, clips(), splits={k: "test" if k == "four" else "train" for k in CAPTIONS})
    return MotionStore(folder)


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    """Folder of a random DistilBERT of width 8."""
    return text_models.write_model(tmp_path_factory.mktemp("language_model"))
