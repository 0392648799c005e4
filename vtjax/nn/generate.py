"""Batched decoding: one prefill with spliced embeddings, then one token at a time under a jitted loop.

`model` is anything with the functions of `vtjax.nn.llama.LanguageModel`: embed, hidden, cached, logits, init_cache, and
hashable. Rows may be padded on either side; every row stops by itself, and the loop ends when all have.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vtjax.arrays import Array
from vtjax.errors import VtjaxError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    temperature: 0 takes the likeliest. top_k: keep the k likeliest, 0 all. top_p: then keep the likeliest tokens until
    their probability reaches top_p, the one that crosses it included. stop_ids end a row; pad_id follows.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    stop_ids: tuple[int, ...] = (2,)
    pad_id: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise VtjaxError(
                f"{self}: max_new_tokens is 1 or more, temperature and top_k 0 or more, top_p above 0 and at most 1"
            )


# What the authors of PiTe decode with: nearly greedy.
PITE = Sampling(temperature=0.05, top_k=50, top_p=0.6)


@dataclasses.dataclass(frozen=True)
class Generation:
    """What was generated, without the prompt.

    tokens: int32 [B, N], pad_id after the end. lengths: int32 [B], the stop id counted. stopped: bool [B], False where
    the row ran into N. log_probs: float32 [B, N] of each token under the model itself (temperature 1, nothing cut),
    0 after the end. hidden: [B, N, width], the state that predicted each token, or None.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    stopped: np.ndarray
    log_probs: np.ndarray
    hidden: Array | None

    def rows(self) -> list[list[int]]:
        """Each row's tokens up to its length."""
        return [row[:n].tolist() for row, n in zip(self.tokens, self.lengths, strict=True)]


def generate(
    model: Any,
    params: Any,
    sampling: Sampling,
    *,
    ids: Array | None = None,
    embeddings: Array | None = None,
    valid: Array | None = None,
    lora: Mapping[str, Any] | None = None,
    rng: Array | None = None,
    cached: bool = True,
    return_hidden: bool = False,
    stop_strings: Sequence[str] = (),
    decode: Callable[[Sequence[int]], str] | None = None,
    check_every: int = 16,
) -> Generation:
    """Continues a batch of prompts.

    Args:
      ids: int32 [B, P] prompts, or embeddings: [B, P, width] with media already spliced in.
      valid: bool [B, P], False on padding; default all. P is static: pad to a few lengths to compile few times.
      rng: key, needed while temperature > 0. Row r draws from the same stream whatever else is in the batch.
      cached: False runs the whole sequence again for every token; slow, and the same tokens.
      stop_strings: a row also ends with the token that completes one of them; `decode` turns ids into text. Text is
        looked at on the host every `check_every` tokens; what was generated beyond the stop is discarded.

    Raises:
      VtjaxError: not exactly one of ids and embeddings, a prompt without a token, stop strings without `decode`, or no
        rng to sample with.
    """
    if (ids is None) == (embeddings is None):
        raise VtjaxError("generate: give either ids or embeddings")
    if stop_strings and decode is None:
        raise VtjaxError("generate: stop_strings needs decode, the function from ids to text")
    if sampling.temperature > 0 and rng is None:
        raise VtjaxError("generate: temperature > 0 needs rng, for example jax.random.key(0)")
    batch, prompt = (ids if embeddings is None else embeddings).shape[:2]
    valid = np.ones((batch, prompt), bool) if valid is None else valid
    if not np.asarray(valid).any(axis=1).all():
        raise VtjaxError(f"generate: rows {np.flatnonzero(~np.asarray(valid).any(axis=1)).tolist()} have no token")
    start, run = _programs(model, sampling, cached, return_hidden)
    key = jax.random.key(0) if rng is None else rng
    state = start(params, lora, ids, embeddings, jnp.asarray(valid))
    step = check_every if stop_strings else sampling.max_new_tokens
    for limit in range(step, sampling.max_new_tokens + step, step):
        state = run(params, lora, key, state, jnp.int32(min(limit, sampling.max_new_tokens)))
        if stop_strings:
            state = _stop_at_strings(state, stop_strings, decode)
            if state["done"].all():
                break
    tokens, lengths, done, log_probs = jax.device_get([state[n] for n in ("tokens", "length", "done", "log_probs")])
    inside = np.arange(sampling.max_new_tokens)[None] < lengths[:, None]
    return Generation(
        tokens=np.where(inside, tokens, sampling.pad_id).astype(np.int32),
        lengths=lengths,
        stopped=done,
        log_probs=np.where(inside, log_probs, 0.0).astype(np.float32),
        hidden=state.get("hidden"),
    )


def choose(logits: Float[Array, "batch vocab"], sampling: Sampling, keys: Array) -> Int[Array, "batch"]:
    """Next ids int32 [B] from float32 logits [B, vocab]; keys: one per row [B], unused where temperature is 0."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, truncate(logits, sampling)).astype(jnp.int32)


def truncate(logits: Float[Array, "batch vocab"], sampling: Sampling) -> Float[Array, "batch vocab"]:
    """logits / temperature, -inf where top_k, and after it top_p, leave a token out; [B, vocab] float32."""
    logits = logits / sampling.temperature
    vocab = logits.shape[-1]
    if 0 < sampling.top_k < vocab:
        logits = jnp.where(logits >= jax.lax.top_k(logits, sampling.top_k)[0][:, -1:], logits, -jnp.inf)
    if sampling.top_p < 1:
        ranked = -jnp.sort(-logits, axis=-1)
        p = jax.nn.softmax(ranked, axis=-1)
        kept = jnp.sum(jnp.cumsum(p, axis=-1) - p < sampling.top_p, axis=-1, keepdims=True)
        logits = jnp.where(logits >= jnp.take_along_axis(ranked, kept - 1, axis=-1), logits, -jnp.inf)
    return logits


@functools.lru_cache(maxsize=32)
def _programs(model: Any, sampling: Sampling, cached: bool, return_hidden: bool) -> tuple[Callable, Callable]:
    """The jitted prefill, and the jitted loop that decodes until a limit; compiled once per shape of prompt."""
    new = sampling.max_new_tokens

    @jax.jit
    def start(params, lora, ids, embeddings, valid):
        x = model.embed(params, ids) if embeddings is None else embeddings
        batch, prompt, width = x.shape
        count = jnp.sum(valid, axis=1, dtype=jnp.int32)
        positions = jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
        state = {
            "step": jnp.int32(0),
            "tokens": jnp.zeros((batch, new), jnp.int32),
            "log_probs": jnp.zeros((batch, new), jnp.float32),
            "length": jnp.zeros(batch, jnp.int32),
            "done": jnp.zeros(batch, bool),
            "position": count,
            "valid": jnp.concatenate([valid, jnp.zeros((batch, new), bool)], axis=1),
        }
        if cached:
            cache = model.init_cache(batch, prompt + new)
            hidden, state["cache"] = model.cached(params, x, valid, positions, cache, jnp.int32(0), lora)
        else:
            hidden = model.hidden(params, x, valid, lora=lora)
            state["embeddings"] = jnp.concatenate([x, jnp.zeros((batch, new, width), x.dtype)], axis=1)
        last = prompt - 1 - jnp.argmax(valid[:, ::-1], axis=1)
        state["next"] = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        if return_hidden:
            state["hidden"] = jnp.zeros((batch, new, width), hidden.dtype)
        return state

    def body(params, lora, key, state):
        step, hidden = state["step"], state["next"]
        logits = model.logits(params, hidden)
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row), step))(jnp.arange(len(hidden)))
        token = jnp.where(state["done"], sampling.pad_id, choose(logits, sampling, keys))
        log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), token[:, None], axis=1)
        put = lambda buffer, value: jax.lax.dynamic_update_index_in_dim(buffer, value, step, 1)
        slot = state["valid"].shape[1] - new + step
        out = dict(state)
        out["tokens"] = put(state["tokens"], token)
        out["log_probs"] = put(state["log_probs"], log_prob[:, 0])
        if return_hidden:
            out["hidden"] = put(state["hidden"], hidden)
        out["length"] = state["length"] + ~state["done"]
        out["done"] = state["done"] | jnp.isin(token, jnp.array(sampling.stop_ids, jnp.int32))
        out["valid"] = jax.lax.dynamic_update_index_in_dim(state["valid"], ~state["done"], slot, 1)
        out["position"] = state["position"] + 1
        out["step"] = step + 1
        x = model.embed(params, token[:, None])
        if cached:
            after, out["cache"] = model.cached(
                params, x, out["valid"], state["position"][:, None], state["cache"], slot, lora
            )
            out["next"] = after[:, 0]
        else:
            x = jax.lax.dynamic_update_slice_in_dim(state["embeddings"], x.astype(state["embeddings"].dtype), slot, 1)
            out["embeddings"] = x
            after = model.hidden(params, x, out["valid"], lora=lora)
            out["next"] = jax.lax.dynamic_index_in_dim(after, slot, 1, keepdims=False)
        return out

    @functools.partial(jax.jit, donate_argnums=(3,))
    def run(params, lora, key, state, limit):
        unfinished = lambda s: (s["step"] < limit) & ~jnp.all(s["done"])
        return jax.lax.while_loop(unfinished, lambda s: body(params, lora, key, s), state)

    return start, run


def _stop_at_strings(state: dict[str, Any], stops: Sequence[str], decode: Callable) -> dict[str, Any]:
    """The state with rows ended at the first token whose text completes a stop string."""
    tokens, lengths, done = (np.array(state[name]) for name in ("tokens", "length", "done"))
    for row in range(len(tokens)):
        hit = lambda n, row=row: any(s in decode(tokens[row, :n].tolist()) for s in stops)
        if not hit(lengths[row]):
            continue
        low, high = 0, int(lengths[row])  # the text of the first `high` tokens holds a stop, that of `low` does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if hit(middle) else (middle, high)
        lengths[row], done[row] = high, True
    return {**state, "length": jnp.asarray(lengths), "done": jnp.asarray(done)}
