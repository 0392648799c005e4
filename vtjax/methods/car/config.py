"""Settings of CAR; defaults are the released training settings (docs/methods/car.md)."""

import dataclasses

from vtjax.config import choice, number, positive, share
from vtjax.errors import VtjaxError


@dataclasses.dataclass
class CarModelConfig:
    """Motion encoder, text encoder and motion decoder (TMR, section 3.1)."""

    motion_width: int = positive(263)  # features per frame
    max_frames: int = positive(224)  # motions are padded or cut to this many frames
    patch: int = positive(1)  # consecutive frames per token; 1 is the paper, more is cheaper on a CPU
    latent: int = positive(256)  # width of both encoders, of the decoder and of the joint space
    layers: int = positive(6)  # of each encoder and of the decoder
    heads: int = positive(4)  # of attention
    ff: int = positive(1024)  # width inside the feed-forward networks
    dropout: float = share(0.1)  # everywhere in the layers
    activation: str = "gelu"  # of the feed-forward networks
    remat: str = "none"  # none | full | dots | dots_no_batch: what a layer keeps for the backward pass (nn/stack.py)
    scan: bool = False  # compile one layer whatever the depth
    vae: bool = True  # False: one embedding token and a projection head on the text, no sampling, no KL


@dataclasses.dataclass
class CarTextConfig:
    """What turns a caption into states [tokens, width] for the text encoder."""

    # bert: a BERT-family language model; builtin: learned embeddings of a small vocabulary
    encoder: str = choice("bert", "builtin")
    path: str = "distilbert-base-uncased"  # bert: folder or hub id
    trainable: bool = False  # bert: fine-tune it inside the training graph; False reads cached states
    frozen_dropout: bool = False  # run in the graph with dropout, though train.trainable leaves it out
    max_tokens: int = positive(128)  # including [CLS] and [SEP]
    width: int = positive(768)  # of the states; bert: must equal the language model's
    vocab_size: int = positive(1024)  # builtin

    @property
    def in_graph(self) -> bool:
        """Whether batches carry token ids (text_ids) rather than cached states (text_states)."""
        return self.encoder == "builtin" or self.trainable or self.frozen_dropout


@dataclasses.dataclass
class CarLossConfig:
    """Objective (docs/methods/car.md, equations 2 to 9)."""

    reconstruction: float = number(1.0, at_least=0)  # 0 also skips the decoder
    kl: float = number(1e-5, at_least=0)  # weight of the KL terms
    latent: float = number(1e-5, at_least=0)  # weight of the distance of both latents
    contrastive: float = number(0.1, at_least=0)  # weight of the contrastive term
    temperature: float = positive(0.1)  # of the contrastive term
    # events: ordered events joined (ev2ev); caption: the raw caption (o2e)
    positive_text: str = choice("events", "caption")
    text_negatives: int = number(1, at_least=0)  # K shuffled texts per item; 0 is plain TMR
    # M motions with swapped segments per item; beyond the paper
    motion_negatives: int = number(0, at_least=0, at_most=1)
    # batch: a negative of every item (released code); own: of its own item only
    negatives_scope: str = choice("batch", "own")
    # False negatives by: sentence (encoder) | sequence (gold key of a world) | none.
    filter: str = choice("sentence", "sequence", "none")
    sentence_encoder: str = "sentence-transformers/all-mpnet-base-v2"  # folder or hub id; builtin needs no file
    sentence_width: int = 768  # of its embeddings
    threshold: float = 0.8  # on the cosine of sentence embeddings rescaled to [0, 1]: 0.8 is a cosine of 0.6
    exclude_equal_texts: bool = False  # a shuffled text that is another item's own text is no negative of that item
    sample_scale: float = number(1.0, at_least=0)  # of the noise in z while training; 0 trains on the means
    pad_in_mean: bool = True  # reconstruction averages over padded frames too (released code)


@dataclasses.dataclass
class CarQuirks:
    """What the released training code does differently (docs/methods/car.md). All off is the recommended setting.

    Its other quirks are `text.frozen_dropout`, `loss.pad_in_mean`, and, where motions are prepared,
    `vtjax.prepare --event_index=filtered`. Never reproduced: the endless redraw of identical events and
    the gallery size of 4384 written into the code.
    """

    annotation0_crop: bool = False  # crop by annotation 0 even when another caption is sampled
    original_length_mask: bool = False  # distractor texts are encoded with the original text's mask
    legacy_orders: bool = False  # the test's wrong orders come from one Python random generator, item after item
    round_validation: bool = False  # compare validation metrics after rounding to two decimals
    identity_shuffles: bool = False  # before February 2025: a "shuffled" text could be the original order


@dataclasses.dataclass
class CarDataConfig:
    """What is trained and evaluated on: the embedded motion world, or a folder of `vtjax.prepare --kind=motion`."""

    source: str = "world"  # world, or a prepared folder
    train_split: str = "train"  # that is learnt from
    val_split: str = "val"  # evaluated while training; the first clips of the test split where there is no such split
    test_split: str = "test"  # that is evaluated at the end
    val_size: int = 512  # clips of the validation split at most
    cache: str = ""  # where worlds and language-model states are kept; "": the folder `cache` beside the work directory
    orders: int = 2  # wrong orders per caption to cache states of, for a frozen language model
    world_seed: int = 0  # of the motion world
    world_train: int = 6000  # clips to learn from
    world_test: int = 1024  # clips to test on
    script: float = 0.0  # share of clips whose events follow a fixed order, in training; tests are balanced
    event_similarity: float = 0.0  # how alike the events of one clip are
    min_events: int = 1  # of a clip of the world
    max_events: int = 4  # of a clip of the world
    paraphrase: bool = True  # vary the wording of the captions


@dataclasses.dataclass
class CarConfig:
    """Everything the method depends on besides data, optimizer and loop."""

    model: CarModelConfig = dataclasses.field(default_factory=CarModelConfig)
    text: CarTextConfig = dataclasses.field(default_factory=CarTextConfig)
    loss: CarLossConfig = dataclasses.field(default_factory=CarLossConfig)
    quirks: CarQuirks = dataclasses.field(default_factory=CarQuirks)
    data: CarDataConfig = dataclasses.field(default_factory=CarDataConfig)


def check(config: CarConfig) -> None:
    """Refuses settings that cannot work together.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    where = "config.method"
    model, text, loss = config.model, config.text, config.loss
    if model.max_frames % model.patch:
        raise VtjaxError(f"{where}.model.max_frames={model.max_frames} is not a multiple of patch={model.patch}")
    if model.latent % model.heads or model.latent % 2:
        raise VtjaxError(f"{where}.model.latent={model.latent}: must be even and a multiple of heads={model.heads}")
    if text.frozen_dropout and text.trainable:
        raise VtjaxError(f"{where}.text.frozen_dropout only means something where text.trainable is False")
    if text.encoder == "builtin" and (text.trainable or text.frozen_dropout):
        raise VtjaxError(f"{where}.text: trainable, frozen_dropout are settings of encoder=bert; builtin always learns")
    if loss.exclude_equal_texts and not text.in_graph:
        raise VtjaxError(f"{where}.loss.exclude_equal_texts compares token ids; cached states (frozen bert) have none")
