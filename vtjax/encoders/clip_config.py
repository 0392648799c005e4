"""Settings of contrastive video-text pretraining: the method `clip`, and the encoder of methods that begin with it."""

import dataclasses

from vtjax.config import choice, number, positive, share
from vtjax.errors import VtjaxError


@dataclasses.dataclass
class VisionSizes:
    """The frame tower of a model of its own size; image and patch in pixels, both square."""

    image_size: int = 64  # pixels, both sides
    patch_size: int = 16  # pixels, both sides
    width: int = 128  # of the residual stream
    layers: int = 4  # of the transformer
    heads: int = 4  # of attention
    mlp_width: int = 512  # inside the feed-forward networks


@dataclasses.dataclass
class TextSizes:
    """The text tower of a model of its own size."""

    width: int = 96  # of the residual stream
    layers: int = 2  # of the transformer
    heads: int = 4  # of attention
    mlp_width: int = 384  # inside the feed-forward networks


@dataclasses.dataclass
class ClipModelConfig:
    """Both towers, and what makes one embedding of a clip's frames."""

    pretrained: str = ""  # a published CLIP (folder, hub id, file, or what vtjax.convert made): sizes and weights
    activation: str = ""  # of `pretrained`, where its file does not say; else "gelu" or "quick_gelu"
    preset: str = ""  # published sizes with random weights: "ViT-B/32", ...; "" is the sizes below
    embed_dim: int = positive(128)  # of the joint space
    vision: VisionSizes = dataclasses.field(default_factory=VisionSizes)
    text: TextSizes = dataclasses.field(default_factory=TextSizes)
    image_size: int = 0  # another size than pretrained's or preset's; its position table is resampled
    frames: int = positive(6)  # per clip
    # transformer: over frame embeddings, sees their order; mean: the CLIP baseline, which cannot
    temporal: str = choice("transformer", "mean")
    temporal_layers: int = positive(2)  # of the transformer over frames
    temporal_heads: int = positive(4)  # of its attention
    # Towers without gradient and optimizer state: none | vision | text | both.
    freeze: str = choice("none", "vision", "text", "both")
    remat: str = "none"  # none | full | dots | dots_no_batch: what a layer keeps for the backward pass (nn/stack.py)
    scan: bool = False  # compile one layer whatever the depth
    parts: int = positive(1)  # the towers take the batch in so many parts, each again in the backward pass (GradCache,
    # arXiv 2101.06983): activations of one part in memory, the loss over the whole batch


@dataclasses.dataclass
class ClipTextConfig:
    """Texts to token ids."""

    # words: a vocabulary from the training texts; clip: byte-level BPE; auto: clip where the model is published or has
    # published sizes, else words
    tokenizer: str = choice("auto", "words", "clip")
    vocabulary: str = ""  # clip: folder, hub id or bpe_simple_vocab_16e6.txt.gz; "" is model.pretrained
    max_tokens: int = number(24, at_least=3)  # of words, ends included; clip has the model's own length
    vocab_size: int = positive(512)  # of words
    also: tuple[str, ...] = ()  # words: further texts whose words the vocabulary must have


@dataclasses.dataclass
class ClipLossConfig:
    """InfoNCE of CLIP, or the pairwise sigmoid loss of SigLIP (arXiv 2303.15343)."""

    name: str = choice("infonce", "sigmoid")  # of CLIP, of SigLIP
    impl: str = choice("auto", "plain", "gather", "ring")  # see losses/distributed_contrastive.py; they agree
    tile: int = positive(1024)  # of gather and ring: columns of pairs formed at once
    backwards: bool = False  # every clip is also shown backwards, with the caption that is then true, where the data
    # has one: each is a hard negative of the other; costs no frame tower
    max_scale: float = positive(100.0)  # the learnt scale on cosines never exceeds it (CLIP, section 2.5)


@dataclasses.dataclass
class ClipDataConfig:
    """The embedded workshop world, or a folder made by `vtjax.prepare --kind=video`."""

    source: str = "world"  # world, or a prepared folder
    train_split: str = "train"  # that is learnt from
    val_split: str = "val"  # evaluated while training; the first clips of the test split where there is no such split
    test_split: str = "test"  # that is evaluated at the end
    val_size: int = positive(256)  # clips evaluated while training, at most
    # Prepared folder without any split: share of its videos, chosen by name, that is "test".
    holdout: float = number(0.1, above=0, below=1)
    cache: str = ""  # where the world is kept; "" is the folder `cache` beside the work directory
    sampling: str = choice("segments", "uniform", "dense", "rate")  # see data/video/sampling.py
    stride: int = positive(1)  # dense: frames from one to the next
    rate: float = positive(4.0)  # rate: frames per second
    resize: str = choice("shortest", "squash")  # shortest: and the centre is cut out
    crop: float = number(1.0, above=0, at_most=1)  # smallest side of a random crop, as a share of the frame's; 1 is off
    flip: bool = False  # mirror every second clip; wrong wherever left and right matter
    brightness: float = share(0.0)  # clips become up to this share brighter or darker
    templates: tuple[str, ...] = ("a video of {}.", "{}.", "someone is {}.", "a clip that shows {}.")  # of class names
    world_seed: int = 0  # of the workshop world
    world_train: int = positive(3000)  # clips to learn from
    world_test: int = positive(1024)  # half of them of verb-object pairs that training never shows; so for val_size
    world_frames: int = number(8, at_least=4)  # of a clip, in two seconds


@dataclasses.dataclass
class ClipConfig:
    """Everything the method depends on besides data, optimizer and loop."""

    model: ClipModelConfig = dataclasses.field(default_factory=ClipModelConfig)
    text: ClipTextConfig = dataclasses.field(default_factory=ClipTextConfig)
    loss: ClipLossConfig = dataclasses.field(default_factory=ClipLossConfig)
    data: ClipDataConfig = dataclasses.field(default_factory=ClipDataConfig)


def tokenizer_of(config: ClipConfig) -> str:
    """"clip" or "words"."""
    if config.text.tokenizer != "auto":
        return config.text.tokenizer
    return "clip" if config.model.pretrained or config.model.preset else "words"


def check(config: ClipConfig) -> None:
    """Refuses settings that cannot work together, before anything is built.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    where = "config.method"
    model, data = config.model, config.data
    if model.pretrained and model.preset:
        raise VtjaxError(f"{where}.model: preset={model.preset!r} has random weights; leave it out with pretrained")
    if tokenizer_of(config) == "clip" and not (config.text.vocabulary or model.pretrained):
        raise VtjaxError(
            f"{where}.text.vocabulary is needed for CLIP's tokenizer: a folder or hub id of a CLIP model, or "
            "bpe_simple_vocab_16e6.txt.gz; text.tokenizer=words makes a vocabulary from the training texts"
        )
    if tokenizer_of(config) == "words" and model.pretrained:
        raise VtjaxError(f"{where}.text.tokenizer='words': {model.pretrained} was trained with CLIP's tokenizer")
    if config.loss.backwards and data.source != "world":
        raise VtjaxError(f"{where}.loss.backwards: only the world knows what is true of a clip shown backwards")
    wrong = [t for t in data.templates if t.count("{}") != 1]
    if wrong or not data.templates:
        raise VtjaxError(f"{where}.data.templates: {wrong or 'none'}; each needs one {{}} for the class name")
