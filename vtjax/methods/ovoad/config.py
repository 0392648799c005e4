"""Settings of OV-OAD; docs/methods/ovoad.md says where the paper and its released code differ, and what is the default.
"""

import dataclasses

from vtjax.config import Stage, choice, number, positive, share
from vtjax.encoders.clip_config import ClipConfig
from vtjax.errors import VtjaxError

# The 16 prompts of ActionCLIP (arXiv 2109.08472) and 12 more; tests use one.
TRAIN_TEMPLATES = (
    "A photo of action {}.",
    "A video of action {}.",
    "He or she is {}.",
    "A person is doing {}.",
    "Look, the human is {}.",
    "Human action of {}.",
    "Playing action of {}.",
    "Video classification of {}.",
    "Doing a kind of action, {}.",
    "Playing a kind of action, {}.",
    "Can you recognize the action of {}?",
    "{}, an action.",
    "{} this is an action.",
    "{}, a video of action.",
    "An action of {} is in the video.",
    "There is a person doing {} in the video.",
    *(
        f"A {medium} of a person {verb} {{}}."
        for medium in ("photo", "video", "example", "demonstration")
        for verb in ("doing", "performing", "practicing")
    ),
)
TEST_TEMPLATES = ("A photo of action {}.",)


@dataclasses.dataclass
class OvoadModelConfig:
    """The visual side, from frame features to group tokens (docs/methods/ovoad.md)."""

    width: int = positive(768)  # of frame features and of the model
    past: int = positive(24)  # frames before the neighbouring ones
    near: int = positive(8)  # neighbouring frames; the last of them is the current frame
    # Frames before the past ones that only cross attention looks at; the released code was run with 64.
    long: int = number(0, at_least=0)
    compress: bool = False  # those through a convolution over time of width 3 and stride 2
    heads: int = positive(8)  # of attention
    mlp_ratio: int = positive(4)  # width inside the feed-forward networks over the model's
    dropout: float = share(0.1)  # of positions and layers
    attention_dropout: float = share(0.1)  # of attention weights
    drop_path: float = share(0.1)  # stochastic depth of the last block, growing from 0 over all blocks
    # decoder: paper | encoder_xattn: released code | encoder, none: ablations (table 7)
    dntr: str = choice("decoder", "encoder_xattn", "encoder", "none")
    dntr_layers: int = number(4, at_least=0)  # of the distant-neighbouring-frame transformer
    dntr_norm: str = choice("hybrid", "pre")  # of decoder layers; hybrid: the code base's unused block
    mask: str = choice("causal", "near", "none")  # of encoders; near: only neighbouring frames are masked
    detach: bool = False  # encoder_xattn: no gradient from the current frame's branch into the encoder
    # That are clustered: near | all | auto: near for the decoder and none, all for the encoders.
    frames: str = choice("auto", "near", "all")
    clustering: bool = True  # False: the clip is the mean of its frames, without groups (ablation)
    cluster_layers: int = number(6, at_least=0)  # before the grouping
    group_layers: int = number(2, at_least=0)  # after it
    groups: int = positive(8)  # learnt group tokens
    out_groups: int = positive(2)  # that the object-centric decoder makes of them
    # Object-centric decoder: grouping (released; the paper's parameter count is of this one) | slot: the paper's
    # equations.
    unit: str = choice("grouping", "slot")
    hard: bool = True  # frames belong to one group, with straight-through gradient; False: softly
    gumbel: bool = True  # noise on the assignment while training
    temperature: float = positive(1.0)  # of the assignment
    iterations: int = positive(1)  # of unit=slot
    gru: bool = False  # unit=slot: slots are updated by a GRU rather than a residual
    # Softmax over: groups, which compete for each frame | frames: an ordinary decoder.
    assign_over: str = choice("groups", "frames")
    normalise: str = choice("sum_plus_one", "sum", "none")  # weights of a group over its frames
    project_hidden: int = positive(4096)  # width inside both projectors
    joint_width: int = positive(256)  # of the space of clips, groups and captions
    max_scale: float = positive(100.0)  # the learnt scales on cosines never exceed it


@dataclasses.dataclass
class OvoadTextConfig:
    """The text tower, that of the pretrained encoder, and what it is given (table 8 of the paper)."""

    adapter: int = number(64, at_least=0)  # width of the parallel adapters; 0 is none
    adapter_scale: float = number(0.1, at_least=0)  # of what an adapter adds
    adapter_dropout: float = share(0.1)  # inside an adapter
    freeze: bool = False  # all of the tower but the adapters
    # Of the current frame: eot: the state at the end of text | projected into CLIP's space.
    current_space: str = choice("eot", "projected")
    max_tokens: int = number(0, at_least=0)  # texts are padded or cut to this; 0 is the tower's own length
    train_templates: tuple[str, ...] = TRAIN_TEMPLATES  # sentences around a class name
    test_templates: tuple[str, ...] = TEST_TEMPLATES  # sentences around a class name
    background: str = "background"  # name of the class without action


@dataclasses.dataclass
class OvoadLossConfig:
    """L = contrast + alpha current + beta mask (table 4 of the paper)."""

    contrast: float = number(1.0, at_least=0)  # weight of the contrastive terms
    current: float = number(0.1, at_least=0)  # alpha
    mask: float = number(1.0, at_least=0)  # beta; with mask_mean=frames as released
    extra: int = number(2, at_least=0)  # M further texts of a window; 0: the caption alone
    multi_positive: str = choice("logsumexp", "mean_log")  # logsumexp: paper | mean_log: released code
    # text: A G T^t, paper | logits: of the assignment, averaged over groups, released code
    mask_from: str = choice("text", "logits")
    mask_squash: str = choice("minmax", "sigmoid")  # into [0, 1]: minmax over time | sigmoid of the scaled cosine
    # batch | frames: the sum over the batch over the number of frames, released code
    mask_mean: str = choice("batch", "frames")
    focal: float = number(0.0, at_least=0)  # weight of a focal loss on the mask
    # Other items with the very same text are: negatives (paper) | left_out.
    equal_texts: str = choice("negatives", "left_out")


@dataclasses.dataclass
class OvoadDataConfig:
    """Windows over frame features at `fps`, and what is said of their frames."""

    source: str = "world"  # world, or a folder of `vtjax.prepare --kind=video --fps=4 --features=...`
    # sentences: InternVid's recipe | labels: ActivityNet's, of class names
    captions: str = choice("sentences", "labels")
    # Seconds to frames: lstr: floor(4 s) to ceil(4 e) - 1 | early: one frame earlier (released).
    labels: str = choice("lstr", "early")
    train_split: str = "train"  # that is learnt from
    val_split: str = "val"  # evaluated while training
    test_split: str = "test"  # that is evaluated at the end
    val_size: int = positive(16)  # videos evaluated while training, at most
    fps: float = positive(4.0)  # features a second
    stride: int = positive(1)  # frames from one window of training to the next
    balance: bool = False  # actions and background as the current frame equally often
    cold_start: bool = False  # also windows that begin before the video does
    # Of one video in an example, of different parts where there are some: they show the same things and are negatives
    # of each other; 1 is the paper. batch_size counts examples.
    windows: int = positive(1)
    cache: str = ""  # where the world's frames are kept; "" is the folder `cache` beside the work directory
    verbs: str = ""  # file of verbs, one a line, that noun and verb prompts are made with; "": those of vtjax.text
    world_seed: int = 0  # of the workshop world
    world_train: int = positive(160)  # streams of 40 seconds
    world_test: int = positive(48)  # streams to test on
    world_negative: float = number(0.0, at_least=0, at_most=1)  # share of training streams in which nothing is done


@dataclasses.dataclass
class OvoadEncoderConfig:
    """The pretrained vision-language encoder: its frame features are the input, its text tower the start."""

    weights: str = ""  # work directory of a clip run, or file, folder or hub id of a published CLIP; "": the recipe's
    # own stage `pretrain`
    which: str = "last"  # checkpoint of the clip run
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)  # of the stage, or its sizes where published
    # class_token: after the last norm, before the projection | embedding: projected
    feature: str = choice("class_token", "embedding")


@dataclasses.dataclass
class OvoadFusionConfig:
    """How the branches' scores become one."""

    # paper: cosines | code_mean: mean of softmaxes as released | calibrated: one softmax each
    mode: str = choice("calibrated", "paper", "code_mean")
    group: float = number(1.0, at_least=0)  # weight of action clustering
    current: float = number(1.0, at_least=0)  # weight of the current frame
    # Weight of the encoder's own zero-shot scores, their mean over the window; 0 is without.
    clip: float = number(0.0, at_least=0)
    clip_form: str = choice("standard", "code")  # code: features normalised before the projection and not after
    top: int = positive(5)  # code_mean: classes of the whole clip that a group may be
    background: str = choice("none", "mask")  # mask: scores of actions times the predicted mask


@dataclasses.dataclass
class OvoadConfig:
    """Everything the method depends on besides data, optimizer and loop."""

    model: OvoadModelConfig = dataclasses.field(default_factory=OvoadModelConfig)
    text: OvoadTextConfig = dataclasses.field(default_factory=OvoadTextConfig)
    loss: OvoadLossConfig = dataclasses.field(default_factory=OvoadLossConfig)
    data: OvoadDataConfig = dataclasses.field(default_factory=OvoadDataConfig)
    encoder: OvoadEncoderConfig = dataclasses.field(default_factory=OvoadEncoderConfig)
    fusion: OvoadFusionConfig = dataclasses.field(default_factory=OvoadFusionConfig)


@dataclasses.dataclass
class OvoadStages:
    """The encoder's pretraining, where config.encoder.weights names none."""

    pretrain: Stage = dataclasses.field(default_factory=Stage)


def window_of(model: OvoadModelConfig) -> int:
    """Frames that the model takes: the long memory's, then those of `span_of`."""
    return model.long + span_of(model)


def span_of(model: OvoadModelConfig) -> int:
    """Frames that a window's captions, its mask and the encoder's own scores are of."""
    return model.past + model.near


def clustered_frames(model: OvoadModelConfig) -> int:
    """Frames that action clustering sees: the neighbouring ones or the whole window."""
    frames = model.frames
    if frames == "auto":
        frames = "near" if model.dntr in ("decoder", "none") else "all"
    return model.near if frames == "near" else span_of(model)


def check(config: OvoadConfig) -> None:
    """Refuses settings that cannot work together, before anything is built.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    where = "config.method"
    model, text, fusion = config.model, config.text, config.fusion
    if model.width % model.heads:
        raise VtjaxError(f"{where}.model.width={model.width} is not a multiple of heads={model.heads}")
    if model.dntr == "decoder" and clustered_frames(model) != model.near:
        raise VtjaxError(f"{where}.model.frames={model.frames!r}: the decoder gives the neighbouring frames alone")
    if model.long and model.dntr not in ("decoder", "encoder_xattn"):
        raise VtjaxError(f"{where}.model.long={model.long}: dntr={model.dntr!r} has no cross attention to look at it")
    if model.compress and not model.long:
        raise VtjaxError(f"{where}.model.compress: there is no long memory; set long to its number of frames")
    if model.out_groups > model.groups:
        raise VtjaxError(f"{where}.model.out_groups={model.out_groups} exceeds groups={model.groups}")
    if model.unit == "grouping" and (model.iterations > 1 or model.gru):
        raise VtjaxError(f"{where}.model: iterations and gru are settings of unit=slot")
    if model.gumbel and not model.hard and model.assign_over == "frames":
        raise VtjaxError(f"{where}.model.gumbel: noise on a softmax over frames means nothing; set it False")
    if config.loss.mask_from == "logits" and config.loss.mask_squash != "minmax":
        raise VtjaxError(f"{where}.loss.mask_squash={config.loss.mask_squash!r}: of mask_from=logits it is minmax")
    if not model.clustering and config.loss.mask:
        raise VtjaxError(f"{where}.loss.mask={config.loss.mask}: the mask comes from the groups; 0 without clustering")
    if not (fusion.group or fusion.current or fusion.clip):
        raise VtjaxError(f"{where}.fusion: all weights are 0")
    for name in ("train_templates", "test_templates"):
        templates = getattr(text, name)
        wrong = [t for t in templates if t.count("{}") != 1]
        if wrong or not templates:
            raise VtjaxError(f"{where}.text.{name}: {wrong or 'none'}; each needs one {{}} for the class name")
    if not text.background.strip():
        raise VtjaxError(f"{where}.text.background: the class without action needs a name")
