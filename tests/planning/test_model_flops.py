"""Counted FLOPs of the published configurations against sums by hand, to one percent."""

import pytest

from vtjax import methods
from vtjax.config import load_config_file
from vtjax.planning.flops import model_flops


def task_of(spec, **train):
    experiment = load_config_file(f"configs/{spec}")
    experiment.compute_dtype = "bfloat16"
    for name, value in train.items():
        setattr(experiment.train, name, value)
    return methods.get(experiment.name).abstract(experiment)


def tower(tokens, width, mlp, layers):
    """Multiply-adds forwards of one sequence: four projections, two of the feed-forward network, scores and mixing."""
    return layers * (tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width)


def test_clip_l14_by_hand():
    """3 x 2 x multiply-adds of 8 frames, one text and the similarity matrix of 65,536 by 65,536."""
    batch, frames = 65_536, 8
    vision = tower(257, 1024, 4096, 24) + 256 * 14 * 14 * 3 * 1024 + 1024 * 768
    text = tower(77, 768, 3072, 12) + 768 * 768
    by_hand = 6 * (batch * (frames * vision + text) + batch * batch * 768)
    # Of the first product of all, pixels by patches, there is no gradient to the pixels.
    found = model_flops(task_of("clip.py:l14", batch_size=batch)).total
    assert found == pytest.approx(by_hand, rel=0.01)


@pytest.mark.parametrize(
    "variant, width, mlp, layers, head_out", [("7b", 4096, 11008, 32, 32000), ("13b", 5120, 13824, 40, 32000)]
)
def test_llama_with_lora_by_hand(variant, width, mlp, layers, head_out):
    """Frozen matrices: twice (no weight gradient). Scores and mixing, and adapters of rank 64: three times."""
    tokens, length, rank = 256 * 2048, 2048, 64
    frozen = layers * (4 * width * width + 3 * width * mlp) + width * head_out
    scores = layers * 2 * length * width
    adapters = layers * rank * (4 * 2 * width + 3 * (width + mlp))
    by_hand = tokens * (2 * 2 * frozen + 3 * 2 * (scores + adapters))
    found = model_flops(task_of(f"llama.py:{variant}"))
    assert found.total == pytest.approx(by_hand, rel=0.01) and found.open_loops == 0


def test_micro_batches_change_the_objective_of_a_contrastive_loss_and_nothing_else():
    """Two halves have half as many pairs: N x N / 2 products less, of 3 x 2 x D each."""
    whole = model_flops(task_of("clip.py:smoke", batch_size=64, accumulate=1)).total
    halves = model_flops(task_of("clip.py:smoke", batch_size=64, accumulate=2)).total
    pairs = (2 * 64) * (2 * 64) * 32  # with the clips shown backwards
    extra = whole - halves
    assert 0 < extra < 1.6 * 6 * pairs  # the ranked accuracy forms part of the matrix again
    assert model_flops(task_of("llama.py:smoke", accumulate=2)) == model_flops(task_of("llama.py:smoke"))
