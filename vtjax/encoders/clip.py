"""The two towers of a trained run or of a published CLIP, frozen, for the methods that start from them.

    encoder = open_encoder("runs/clip-demo")         # or a published CLIP: a folder, file or hub id
    frames = encoder.frames(video)                   # uint8 [N, H, W, 3]: every frame by itself
    texts = encoder.texts(["a person pours water"])
    cosines = frames.embeddings @ texts.embeddings.T

`encoder.sizes` and `encoder.params` are those of `nn.clip.Clip`: a method that trains a tower further, or wants more of
what it returns, builds `nn.clip.TextTower(sizes.text, sizes.embed_dim)` and starts it from `params["text"]`.

A recipe that trains the encoder itself has a stage for it, built by the method `clip` in a folder `work / "encoder"`;
once that is finished `open_encoder(work / "encoder")` opens it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.encoders.image import ImageTransform
from vtjax.encoders.sizes import FILE, STAGE, carried_of, load_published, load_sizes
from vtjax.errors import VtjaxError
from vtjax.evals.embed import class_means, in_batches
from vtjax.losses.contrastive import unit
from vtjax.nn.clip import ClipConfig, TextTower
from vtjax.nn.temporal_transformer import TemporalTransformer
from vtjax.nn.vit import VisionTower, unstack_layers
from vtjax.text.assets import FOLDER, load_tokenizer
from vtjax.text.clip_tokenizer import ClipTokenizer
from vtjax.text.tokenizer import Tokenizer
from vtjax.training.recipe import stage_params

BATCH = 64  # frames, texts or clips at once
_TOWERS = ("vision", "text", "logit_scale")


@dataclasses.dataclass(frozen=True)
class Features:
    """states: float32 [N, width], the class token (frames) or the end-of-text state (texts) after the tower's last
    norm. embeddings: float32 [N, D], its projection to the joint space, unit norm."""

    states: np.ndarray
    embeddings: np.ndarray


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Both towers, and the temporal transformer where a run has one; not a learnt bias.

    params: nested dict of numpy arrays under `vision`, `text` and `logit_scale`, layers in a loop, not stacked.
    tokenizer: None where a published CLIP came without its vocabulary; why_none then says what was looked for.
    dtype: of matmul inputs. temporal: parameters of the temporal transformer, or None.
    """

    sizes: ClipConfig
    params: Mapping[str, Any]
    tokenizer: Tokenizer | None
    image: ImageTransform
    dtype: Any = jnp.float32
    why_none: str = ""
    temporal: Mapping[str, Any] | None = None

    @property
    def clip_frames(self) -> int:
        """Frames of a clip as the run was trained; 0 of an encoder that knows frames alone."""
        return 0 if self.temporal is None else len(self.temporal["position_embedding"])

    def clips(self, embeddings: np.ndarray) -> np.ndarray:
        """Frame embeddings float32 [N, clip_frames, D] of N clips -> their embeddings float32 [N, D], unit.

        Raises:
          VtjaxError: no temporal transformer, or another number of frames.
        """
        if self.temporal is None or embeddings.shape[1] != self.clip_frames:
            raise VtjaxError(f"clips of {embeddings.shape[1]} frames; this encoder takes {self.clip_frames or 'none'}")
        return in_batches(self._clips, self.temporal, embeddings, np.stack, BATCH)

    def frames(self, frames: np.ndarray) -> Features:
        """uint8 [N, H, W, 3], RGB, of any size: resized and cut as the model was trained with.

        Raises:
          VtjaxError: another type or shape.
        """
        frames = np.asarray(frames)
        if frames.ndim != 4:
            raise VtjaxError(f"frames {frames.dtype} {frames.shape}; expected uint8 [N, height, width, 3]")
        return Features(*self._encode(self._vision, "vision", map(self.image.pixels, frames), len(frames)))

    def texts(self, texts: Sequence[str]) -> Features:
        """N sentences.

        Raises:
          VtjaxError: an empty one, or no tokenizer.
        """
        if self.tokenizer is None:
            raise VtjaxError(f"{self.why_none}; give open_encoder vocabulary=..., a CLIP folder or file with one")
        ids, _ = self.tokenizer.encode(texts, self.sizes.text.context_length)
        return Features(*self._encode(self._text, "text", ids, len(ids)))

    def classes(self, prompts: Sequence[Sequence[str]]) -> np.ndarray:
        """Prompts of each of C classes -> float32 [C, D], unit: the mean of their embeddings (CLIP, section 3.1.4)."""
        rows = self.texts([p for several in prompts for p in several]).embeddings
        return class_means(rows, [len(several) for several in prompts])

    @functools.cached_property
    def _vision(self) -> Any:
        tower = VisionTower(self.sizes.vision, self.sizes.embed_dim, self.dtype)

        def run(params, pixels):
            out = tower.apply({"params": params}, self.image.normalise(pixels))
            return out.class_token.astype(jnp.float32), unit(out.embedding)

        return jax.jit(run)

    @functools.cached_property
    def _text(self) -> Any:
        tower = TextTower(self.sizes.text, self.sizes.embed_dim, self.dtype)

        def run(params, ids):
            out = tower.apply({"params": params}, ids)
            return out.eot.astype(jnp.float32), unit(out.embedding)

        return jax.jit(run)

    @functools.cached_property
    def _clips(self) -> Any:
        stack = self.temporal["encoder"]
        layers = [name for name in stack if name.startswith("layer_")]
        heads = stack[layers[0]]["attention"]["query"]["kernel"].shape[1]
        module = TemporalTransformer(self.clip_frames, len(layers), heads, self.dtype)

        def run(params, embeddings):
            ordered = module.apply({"params": params}, embeddings, jnp.ones(embeddings.shape[:2], bool))
            return unit(ordered.mean(axis=1))

        return jax.jit(run)

    def _encode(self, run: Any, tower: str, rows: Iterable[np.ndarray], count: int) -> Any:
        """run(the tower's parameters, a batch) of all rows."""
        if not count:
            raise VtjaxError("nothing to encode: no frame, or no text")
        return in_batches(run, self.params[tower], rows, np.stack, BATCH)


def open_encoder(
    source: str | os.PathLike[str],
    which: str = "last",
    *,
    vocabulary: str | os.PathLike[str] = "",
    activation: str = "",
    dtype: Any = jnp.float32,
) -> Encoder:
    """The encoder at `source`: the work directory of a run of configs/clip.py, a stage folder that `pipeline.build`
    made for another method's recipe, a folder of `vtjax.convert`, or a published CLIP (folder, file or hub id).

    which: the checkpoint of a run, see `vtjax.load`. vocabulary: of a published CLIP that comes without one.
    activation: of one whose file does not say it, "gelu" or "quick_gelu".

    Raises:
      VtjaxError: none of these, or not readable.
    """
    folder = pathlib.Path(source).expanduser()
    if (folder / "assets" / FILE).is_file():
        return _trained(folder, which, dtype)
    sizes, params = load_published(source, activation)
    return _published(sizes, params, carried_of(source), vocabulary, dtype)


def _trained(folder: pathlib.Path, which: str, dtype: Any) -> Encoder:
    stage = folder if (folder / "checkpoints").is_dir() else folder / STAGE
    trained = stage_params(stage.parent, stage.name, which)
    params = unstack_layers({name: trained[name] for name in _TOWERS})
    assets = folder / "assets"
    sizes = load_sizes(assets)
    tokenizer, image = load_tokenizer(assets / FOLDER), _image(assets, sizes)
    return Encoder(sizes, params, tokenizer, image, dtype, temporal=trained.get("temporal"))


def _published(sizes: ClipConfig, params: Any, carried: Any, vocabulary: Any, dtype: Any) -> Encoder:
    """carried: where the tokenizer lies that came with the weights, if one did; they are of use without it."""
    tokenizer, why_none = None, f"{carried}: weights alone, without a vocabulary"
    folder = pathlib.Path(carried).expanduser()
    if vocabulary:
        tokenizer = ClipTokenizer.load(vocabulary)
    elif not folder.is_file():
        try:
            tokenizer = ClipTokenizer.load(carried)
        except VtjaxError as error:
            why_none = str(error)
    return Encoder(sizes, params, tokenizer, _image(folder, sizes), dtype, why_none)


def _image(folder: pathlib.Path, sizes: ClipConfig) -> ImageTransform:
    """As the folder's preprocessor_config.json says, CLIP's own without one."""
    if (folder / "preprocessor_config.json").is_file():
        return dataclasses.replace(ImageTransform.from_hf(folder), size=sizes.vision.image_size)
    return ImageTransform(sizes.vision.image_size)
