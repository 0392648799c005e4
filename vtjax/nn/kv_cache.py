"""Keys and values of all layers, kept for decoding in arrays of static shape.

A cache has `slots` places along the sequence. Tokens fill them in order, the same slots in every row, whatever the
padding of the row: padding is masked out, and positions are counted apart. One slice write therefore serves a batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float

from vtjax.arrays import Array
from vtjax.sharding.mesh import BATCH_AXES

Cache = dict[str, Array]  # "key", "value": [layers, B, slots, kv_heads, head_dim]


def init_cache(layers: int, batch: int, slots: int, kv_heads: int, head_dim: int, dtype=jnp.bfloat16) -> Cache:
    """An empty cache; 2 * layers * batch * slots * kv_heads * head_dim numbers."""
    shape = (layers, batch, slots, kv_heads, head_dim)
    return {"key": jnp.zeros(shape, dtype), "value": jnp.zeros(shape, dtype)}


def constrain(cache: Cache, mesh: jax.sharding.Mesh | None) -> Cache:
    """Rows over the batch axes and heads over the tensor axis, where they divide; unchanged without a mesh."""
    if mesh is None:
        return cache
    _, batch, _, kv_heads, _ = cache["key"].shape
    rows = BATCH_AXES if batch % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None
    heads = "tensor" if kv_heads % mesh.shape["tensor"] == 0 else None
    sharding = NamedSharding(mesh, PartitionSpec(None, rows, None, heads))
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), cache)


def write(
    cache: Cache,
    layer: Array,
    slot: Array,
    key: Float[Array, "batch tokens kv_heads head_dim"],
    value: Float[Array, "batch tokens kv_heads head_dim"],
) -> Cache:
    """`cache` with key and value [B, L, kv_heads, head_dim] of one layer in slots slot .. slot + L - 1."""
    start = (layer, 0, slot, 0, 0)
    new = {"key": key, "value": value}
    return {n: jax.lax.dynamic_update_slice(cache[n], new[n][None].astype(cache[n].dtype), start) for n in cache}


def read(
    cache: Cache, layer: Array, slots: int
) -> tuple[Float[Array, "batch slots kv_heads head_dim"], Float[Array, "batch slots kv_heads head_dim"]]:
    """Key and value [B, slots, kv_heads, head_dim] of one layer, its first `slots` places."""
    _, batch, _, heads, dim = cache["key"].shape
    pick = lambda x: jax.lax.dynamic_slice(x, (layer, 0, 0, 0, 0), (1, batch, slots, heads, dim))[0]
    return pick(cache["key"]), pick(cache["value"])
