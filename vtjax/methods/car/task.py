"""CAR's objective and embeddings as pure functions of parameters and a batch (docs/methods/car.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from vtjax.config import check_fields
from vtjax.losses import contrastive
from vtjax.losses.robust import smooth_l1
from vtjax.losses.vae import gaussian_kl, sample_gaussian
from vtjax.methods.car.config import CarConfig, check
from vtjax.methods.car.model import CarModel
from vtjax.training.task import Batch, field, stream

Metrics = dict[str, tuple[jax.Array, jax.Array]]


class CarObjective:
    """The objective and the embeddings of one configuration, bound to its model.

    Its functions are pure functions of parameters and a batch. A batch has the fields of `example_spec`, each with a
    leading N.
    """

    def __init__(self, config: CarConfig, language_model: Any = None, dtype: Any = jnp.float32):
        """Builds the model.

        Args:
          config: settings of the method.
          language_model: BertConfig (vtjax.nn.bert) where config.text has a language model inside the graph.
          dtype: of matmul inputs.

        Raises:
          VtjaxError: settings that cannot work.
        """
        check_fields(config, "config.method")
        check(config)
        self.config = config
        self.model = CarModel(config.model, config.text, language_model, dtype)
        self._text = "ids" if config.text.in_graph else "states"

    def example_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Gives the shape and dtype of every field of one training example."""
        spec = jax.ShapeDtypeStruct
        model, text, loss = self.config.model, self.config.text, self.config.loss
        frames, tokens, k, m = model.max_frames, text.max_tokens, loss.text_negatives, loss.motion_negatives
        one = spec((tokens,), jnp.int32) if text.in_graph else spec((tokens, text.width), jnp.float32)
        fields = {
            "motion": spec((frames, model.motion_width), jnp.float32),
            "motion_mask": spec((frames,), jnp.bool_),
            f"text_{self._text}": one,
            "text_mask": spec((tokens,), jnp.bool_),
        }
        if k:
            fields[f"negative_{self._text}"] = spec((k, *one.shape), one.dtype)
            fields["negative_mask"] = spec((k, tokens), jnp.bool_)
            fields["negative_valid"] = spec((k,), jnp.bool_)
        if m:
            fields["negative_motion"] = spec((m, frames, model.motion_width), jnp.float32)
            fields["negative_motion_mask"] = spec((m, frames), jnp.bool_)
            fields["negative_motion_valid"] = spec((m,), jnp.bool_)
        if loss.filter != "none":
            fields["sentence"] = spec((loss.sentence_width,), jnp.float32)
        return fields

    def init(self, rng: jax.Array, batch: Batch) -> dict[str, Any]:
        """Draws random parameters, a nested dict of float32 arrays; of `batch` only the shapes matter."""
        text = field(batch, f"text_{self._text}")
        return self.model.init(rng, batch["motion"], batch["motion_mask"], text, batch["text_mask"])["params"]

    def loss(self, params: Mapping[str, Any], batch: Batch, rng: jax.Array, train: bool) -> Metrics:
        """Computes the objective and its parts over N items (TMR, section 3.2; CAR, section 3.3).

        Args:
          params: as `init` gives them.
          batch: motion is normalised and zero-padded, masks are True where valid, negative_valid is False for items
            with a single event. With text_negatives and motion_negatives 0 this is plain TMR, whatever the batch
            holds; in evaluation a batch without negatives is, too.
          rng: key; streams for dropout and for sampling are folded from it by name. Unused where train is False.
          train: dropout on, and latents sampled (with a VAE); otherwise latents are the means.

        Returns:
          {name: (sum, weight)}: "loss" (N * objective, N), so that sums and weights of micro-batches add up; then
          reconstruction, kl, latent, contrastive (unweighted), accuracy_t2m, accuracy_m2t (in-batch), chronology (text
          in order against shuffled, given the motion) and chronology_motion (motion in order against swapped, given the
          text), each where it applies.

        Raises:
          VtjaxError: a field that the configuration needs is not in the batch.
        """
        weights, variables = self.config.loss, {"params": params}
        rngs = {"dropout": stream(rng, "dropout")} if train else {}
        text_valid = _valid(batch, "negative_valid", weights.text_negatives, train)
        motion_valid = _valid(batch, "negative_motion_valid", weights.motion_negatives, train)
        inputs = self._texts(batch, text_valid), _motions(batch, motion_valid)
        texts, motions = self.model.apply(variables, *inputs, train=train, rngs=rngs, method=_encode)
        z_text, z_motion = texts[0], motions[0]
        if train and self.config.model.vae and weights.sample_scale:
            z_text = sample_gaussian(stream(rng, "sample_text"), *texts, weights.sample_scale)  # type: ignore[call-arg]
            z_motion = sample_gaussian(stream(rng, "sample_motion"), *motions, weights.sample_scale)  # type: ignore[call-arg]
        text, negative_text = z_text[:, 0], z_text[:, 1:]
        motion, negative_motion = z_motion[:, 0], z_motion[:, 1:]

        metrics: Metrics = {}
        if weights.reconstruction:
            rngs = {"dropout": stream(rng, "dropout_decoder")} if train else {}
            metrics["reconstruction"] = self._reconstruction(variables, text, motion, batch, train, rngs)
        if self.config.model.vae:
            metrics["kl"] = _kl_of_four([x[:, 0] for x in texts], [x[:, 0] for x in motions])
        metrics["latent"] = smooth_l1(text, motion)
        exclude = None
        if weights.filter != "none":
            exclude = contrastive.false_negatives(field(batch, "sentence"), weights.threshold)
        equal_texts = None
        if weights.exclude_equal_texts and text_valid is not None:
            equal_texts = _equal_texts(batch)
        metrics["contrastive"] = contrastive.chronological_info_nce(
            text,
            motion,
            temperature=weights.temperature,
            exclude=exclude,
            negative_text=None if text_valid is None else negative_text,
            negative_text_valid=text_valid,
            negative_text_exclude=equal_texts,
            negative_motion=None if motion_valid is None else negative_motion,
            negative_motion_valid=motion_valid,
            scope=weights.negatives_scope,
        )
        factors = {name: getattr(weights, name) for name in ("reconstruction", "kl", "latent", "contrastive")}
        objective = sum(factors[name] * total / jnp.maximum(weight, 1.0) for name, (total, weight) in metrics.items())
        count = jnp.asarray(text.shape[0], jnp.float32)
        metrics = {"loss": (objective * count, count), **metrics}
        accuracy = contrastive.contrastive_accuracy(text, motion, exclude)
        metrics |= dict(zip(("accuracy_t2m", "accuracy_m2t"), accuracy, strict=True))
        if text_valid is not None:
            metrics["chronology"] = contrastive.chronology_accuracy(motion, text, negative_text, text_valid)
        if motion_valid is not None:
            metrics["chronology_motion"] = contrastive.chronology_accuracy(text, motion, negative_motion, motion_valid)
        return metrics

    def embed_motion(self, params: Mapping[str, Any], batch: Batch) -> jax.Array:
        """Gives the means float32 [B, latent] of batch["motion"], batch["motion_mask"], without dropout or sampling."""
        motion, mask = field(batch, "motion"), field(batch, "motion_mask")
        return self.model.apply({"params": params}, motion, mask, method="encode_motion")[0]

    def embed_text(self, params: Mapping[str, Any], batch: Batch) -> jax.Array:
        """Gives the means float32 [B, latent] of batch["text_ids"] or batch["text_states"] with batch["text_mask"]."""
        text, mask = field(batch, f"text_{self._text}"), field(batch, "text_mask")
        return self.model.apply({"params": params}, text, mask, False, method=_encode_text)[0]

    def _texts(self, batch: Batch, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Ids or states [N, 1 + K, L, ...] and their mask [N, 1 + K, L]."""
        kind = self._text
        return _with_negatives(batch, (f"text_{kind}", "text_mask"), (f"negative_{kind}", "negative_mask"), valid)

    def _reconstruction(
        self, variables: dict, text: jax.Array, motion: jax.Array, batch: Batch, train: bool, rngs: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """H(decode(z_text), x) + H(decode(z_motion), x), both latents decoded in one call, item by item."""
        mask = batch["motion_mask"]
        target = jnp.where(mask[..., None], batch["motion"], 0)
        pairs = rearrange([text, motion], "two n d -> (n two) d")
        twice = lambda x: jnp.repeat(x, 2, axis=0)
        decoded = self.model.apply(variables, pairs, twice(mask), train, rngs=rngs, method="decode")
        counted = None if self.config.loss.pad_in_mean else twice(mask)
        total, weight = smooth_l1(decoded, twice(target), counted)
        return total, 0.5 * weight  # the sum of two means over the same elements


def _encode_text(model: CarModel, text: jax.Array, mask: jax.Array, train: bool) -> tuple[Any, Any]:
    if model.text.in_graph:
        text = model.text_states(text, mask, train)
    return model.encode_text(text, mask, train)


def _encode(model: CarModel, texts: tuple, motions: tuple, train: bool) -> tuple[tuple, tuple]:
    """(mu, logvar) of all texts and of all motions, each [N, 1 + negatives, latent], the original first.

    Originals and negatives of an item are neighbours in one call, so that the batch keeps its sharding.
    """

    def rows(encode, values, mask):
        latents = encode(values.reshape(-1, *values.shape[2:]), mask.reshape(-1, mask.shape[-1]))
        return tuple(None if x is None else x.reshape(*mask.shape[:2], -1) for x in latents)

    return (
        rows(lambda x, mask: _encode_text(model, x, mask, train), *texts),
        rows(lambda x, mask: model.encode_motion(x, mask, train), *motions),
    )


def _valid(batch: Batch, name: str, count: int, train: bool) -> jax.Array | None:
    """Validity of the negatives; None where the configuration wants none, or, in evaluation, the batch has none."""
    if not count or (not train and name not in batch):
        return None
    return field(batch, name)


def _motions(batch: Batch, valid: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Motions [N, 1 + M, T, width] and their mask [N, 1 + M, T]."""
    return _with_negatives(batch, ("motion", "motion_mask"), ("negative_motion", "negative_motion_mask"), valid)


def _with_negatives(
    batch: Batch, originals: tuple[str, str], negatives: tuple[str, str], valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    values, masks = (field(batch, name)[:, None] for name in originals)
    if valid is None:
        return values, masks
    others, other_masks = (field(batch, name) for name in negatives)
    return jnp.concatenate([values, others], axis=1), jnp.concatenate([masks, other_masks], axis=1)


def _kl_of_four(text: list[jax.Array], motion: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """KL(t || m) + KL(m || t) + KL(m || N(0, 1)) + KL(t || N(0, 1)); one weight, as all run over the same elements."""
    terms = [gaussian_kl(*text, *motion), gaussian_kl(*motion, *text), gaussian_kl(*motion), gaussian_kl(*text)]
    return sum(total for total, _ in terms), terms[0][1]  # type: ignore[return-value]


def _equal_texts(batch: Batch) -> jax.Array:
    """bool [N, K, N]: negative (i, k) has exactly the tokens of item j's text."""
    text = jnp.where(batch["text_mask"], batch["text_ids"], -1)
    negative = jnp.where(batch["negative_mask"], batch["negative_ids"], -1)
    return (negative[:, :, None, :] == text[None, None, :, :]).all(axis=-1)
