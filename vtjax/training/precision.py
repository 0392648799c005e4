"""In which precision a run computes; parameters, logits, softmax and norms are float32 always."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vtjax.config import Experiment


def compute_dtype(experiment: Experiment) -> jnp.dtype:
    """Of matmul inputs; "auto" is bfloat16 on accelerators, float32 on CPU."""
    name = experiment.compute_dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)
