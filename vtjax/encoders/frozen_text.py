"""Computes the states that a frozen language model has of texts, once, and keeps them on disk."""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.encoders.state_store import StateStore
from vtjax.errors import VtjaxError
from vtjax.evals.embed import in_batches
from vtjax.nn.bert import BertEncoder
from vtjax.text.tokenizer import HFTokenizer, check_texts
from vtjax.trees import flatten
from vtjax.weights.bert import load_bert
from vtjax.weights.hub import local_folder

BATCH = 32
SHORTEST = 16


class FrozenTextEncoder:
    """Gives the last hidden states of a published BERT-family model.

    Texts are grouped by token count into a few static lengths (16, 32, ... `length`) and batches of `BATCH`, so that
    at most log2(length / 16) + 1 programs are compiled and little is spent on padding.

    Args:
      folder_or_hub_id: a Hugging Face folder or hub id.
      length: tokens of a text, special ones included; longer texts are cut and counted in `tokenizer.truncated`.
      dtype: of the matrix products and of the states returned.

    Raises:
      VtjaxError: the model cannot be loaded, or takes fewer than `length` tokens.
    """

    def __init__(self, folder_or_hub_id: str | os.PathLike[str], length: int = 128, dtype: Any = "float32"):
        folder = local_folder(folder_or_hub_id)
        self.config, params = load_bert(folder)
        if not 3 <= length <= self.config.max_length:
            raise VtjaxError(f"text length {length}; {folder} takes 3 to {self.config.max_length} tokens")
        self.tokenizer = HFTokenizer(folder)
        if self.tokenizer.vocab_size > self.config.vocab_size:
            raise VtjaxError(
                f"{folder}: the tokenizer has {self.tokenizer.vocab_size} ids, the model {self.config.vocab_size}"
            )
        self.length, self.dtype, self.width = length, jnp.dtype(dtype), self.config.width
        self.params = jax.device_put(params)
        self.model = BertEncoder(self.config, self.dtype)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the weights, settings, tokenizer and dtype: equal means equal states."""
        digest = hashlib.sha256(f"{self.config} {self.dtype} {self.tokenizer.fingerprint()}".encode())
        for name, leaf in sorted(flatten(self.params).items()):
            digest.update(f"{name} {leaf.shape} {leaf.dtype}".encode())
            digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        return digest.hexdigest()

    @functools.cached_property
    def _states(self) -> Callable[..., jax.Array]:
        return jax.jit(lambda params, batch: self.model.apply({"params": params}, *batch))

    def batches(
        self, texts: Sequence[str], apply: Callable[..., jax.Array] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yields (positions in `texts` [n], output for them [n, ...], mask bool [n, l]) in order of token count.

        apply: jitted (params, (ids [BATCH, l], mask [BATCH, l])) -> [BATCH, ...]; default the states [BATCH, l, width].
        """
        ids, mask = self.tokenizer.encode(texts, self.length)
        edges = [min(SHORTEST, self.length)]
        while edges[-1] < self.length:
            edges.append(min(2 * edges[-1], self.length))
        bucket = np.searchsorted(edges, mask.sum(1))
        for b, edge in enumerate(edges):
            members = np.flatnonzero(bucket == b)
            for rows in np.split(members, range(BATCH, len(members), BATCH)) if len(members) else ():
                inputs = lambda places, edge=edge: (ids[places, :edge], mask[places, :edge])
                out = in_batches(apply or self._states, self.params, rows.tolist(), inputs, BATCH)
                yield rows, out, mask[rows, :edge]

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Computes states [N, length, width] of `dtype`, zero where masked, and mask bool [N, length].

        Raises:
          VtjaxError: an empty text.
        """
        texts = check_texts(texts)
        states = np.zeros((len(texts), self.length, self.width), self.dtype)
        masks = np.zeros((len(texts), self.length), bool)
        for rows, out, mask in self.batches(texts):
            states[rows, : out.shape[1]] = np.where(mask[..., None], out, 0)
            masks[rows, : mask.shape[1]] = mask
        return states, masks

    def store(self, cache_dir: str | os.PathLike[str]) -> StateStore:
        """The store of this model, length and dtype under `cache_dir`; picklable, reads single texts lazily."""
        folder = pathlib.Path(cache_dir) / f"{self.fingerprint[:16]}-{self.length}"
        return StateStore(folder, self.length, self.width, self.dtype, f"{self.fingerprint} {self.length}")

    def prepare(self, texts: Sequence[str], cache_dir: str | os.PathLike[str]) -> StateStore:
        """Computes and stores the states of those texts that the store does not have, batch by batch.

        An interrupted call loses at most one batch.

        Returns:
          The store, to read any of the texts from, a few at a time where all do not fit into memory.
        """
        store = self.store(cache_dir)
        absent = store.absent(check_texts(texts))
        for rows, out, mask in self.batches(absent) if absent else ():
            counts = mask.sum(1)
            store.append([absent[r] for r in rows], [out[i, : counts[i]] for i in range(len(rows))])
        return store
