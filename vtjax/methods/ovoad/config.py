"""Settings of OV-OAD; defaults are those that ovoad.md recommends where paper and released code differ (section 0)."""

import dataclasses

from vtjax.config import Stage, check_choices, check_positive
from vtjax.encoders.clip_config import ClipConfig
from vtjax.errors import VtjaxError

# ovoad.md section 5: the 16 prompts of ActionCLIP and 12 more; tests use one.
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
    """The visual side, from frame features to group tokens (ovoad.md sections 2 and 3)."""

    width: int = 768  # of frame features and of the model
    past: int = 24  # frames before the neighbouring ones
    near: int = 8  # neighbouring frames; the last of them is the current frame
    long: int = 0  # frames before the past ones that only cross attention looks at; the released code was run with 64
    compress: bool = False  # those through a convolution over time of width 3 and stride 2
    heads: int = 8
    mlp_ratio: int = 4
    dropout: float = 0.1
    attention_dropout: float = 0.1
    drop_path: float = 0.1  # stochastic depth of the last block, growing from 0 over all blocks
    dntr: str = "decoder"  # decoder: paper | encoder_xattn: released code | encoder, none: ablations (table 7)
    dntr_layers: int = 4
    dntr_norm: str = "hybrid"  # of decoder layers: hybrid (the code base's unused block) | pre
    mask: str = "causal"  # of encoders: causal | near: only neighbouring frames are masked | none
    detach: bool = False  # encoder_xattn: no gradient from the current frame's branch into the encoder
    frames: str = "auto"  # that are clustered: near | all | auto: near for the decoder and none, all for the encoders
    clustering: bool = True  # False: the clip is the mean of its frames, without groups (ablation)
    cluster_layers: int = 6
    group_layers: int = 2
    groups: int = 8  # learnt group tokens
    out_groups: int = 2  # that the object-centric decoder makes of them
    unit: str = "grouping"  # object-centric decoder: grouping (released; the paper's parameter count is of this one)
    # | slot: the paper's equations
    hard: bool = True  # frames belong to one group, with straight-through gradient; False: softly
    gumbel: bool = True  # noise on the assignment while training
    temperature: float = 1.0  # of the assignment
    iterations: int = 1  # of unit=slot
    gru: bool = False  # unit=slot: slots are updated by a GRU rather than a residual
    assign_over: str = "groups"  # softmax over: groups, which compete for each frame | frames: an ordinary decoder
    normalise: str = "sum_plus_one"  # weights of a group over its frames: sum_plus_one | sum | none
    project_hidden: int = 4096
    joint_width: int = 256  # of the space of clips, groups and captions
    max_scale: float = 100.0  # the learnt scales on cosines never exceed it


@dataclasses.dataclass
class OvoadTextConfig:
    """The text tower, that of the pretrained encoder, and what it is given (ovoad.md section 5)."""

    adapter: int = 64  # width of the parallel adapters; 0 is none
    adapter_scale: float = 0.1
    adapter_dropout: float = 0.1
    freeze: bool = False  # all of the tower but the adapters
    current_space: str = "eot"  # of the current frame: eot: the state at the end of text | projected into CLIP's space
    max_tokens: int = 0  # texts are padded or cut to this; 0 is the tower's own length
    train_templates: tuple[str, ...] = TRAIN_TEMPLATES
    test_templates: tuple[str, ...] = TEST_TEMPLATES
    background: str = "background"  # name of the class without action


@dataclasses.dataclass
class OvoadLossConfig:
    """L = contrast + alpha current + beta mask (ovoad.md section 4)."""

    contrast: float = 1.0
    current: float = 0.1  # alpha
    mask: float = 1.0  # beta; with mask_mean=frames as released
    extra: int = 2  # M further texts of a window; 0: the caption alone
    multi_positive: str = "logsumexp"  # logsumexp: paper | mean_log: released code
    mask_from: str = "text"  # text: A G T^t, paper | logits: of the assignment, averaged over groups, released code
    mask_squash: str = "minmax"  # into [0, 1]: minmax over time | sigmoid of the scaled cosine
    mask_mean: str = "batch"  # batch | frames: the sum over the batch over the number of frames, released code
    focal: float = 0.0  # weight of a focal loss on the mask
    equal_texts: str = "negatives"  # other items with the very same text are: negatives (paper) | left_out


@dataclasses.dataclass
class OvoadDataConfig:
    """Windows over frame features at `fps`, and what is said of their frames (ovoad.md section 6)."""

    source: str = "world"  # world, or a folder of `vtjax.prepare --kind=video --fps=4 --features=...`
    captions: str = "sentences"  # sentences: InternVid's recipe | labels: ActivityNet's, of class names
    labels: str = "lstr"  # seconds to frames: lstr: floor(4 s) to ceil(4 e) - 1 | early: one frame earlier (released)
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    val_size: int = 16  # videos evaluated while training, at most
    fps: float = 4.0
    stride: int = 1  # frames from one window of training to the next
    balance: bool = False  # actions and background as the current frame equally often
    cold_start: bool = False  # also windows that begin before the video does
    windows: int = 1  # of one video in an example, of different parts where there are some: they show the same things
    # and are negatives of each other; 1 is the paper. batch_size counts examples
    cache: str = ""  # where the world's frames are kept; "" is the folder `cache` beside the work directory
    verbs: str = ""  # file of verbs, one a line, that noun and verb prompts are made with; "": those of vtjax.text
    world_seed: int = 0
    world_train: int = 160  # streams of 40 seconds
    world_test: int = 48
    world_negative: float = 0.0  # share of training streams in which nothing is done


@dataclasses.dataclass
class OvoadEncoderConfig:
    """The pretrained vision-language encoder: its frame features are the input, its text tower the start."""

    weights: str = ""  # work directory of a clip run, or file, folder or hub id of a published CLIP; "": the recipe's
    # own stage `pretrain`
    which: str = "last"  # checkpoint of the clip run
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)  # of the stage, or its sizes where published
    feature: str = "class_token"  # after the last norm, before the projection | embedding: projected


@dataclasses.dataclass
class OvoadFusionConfig:
    """How the branches' scores become one (ovoad.md section 7)."""

    mode: str = "calibrated"  # paper: cosines | code_mean: mean of softmaxes as released | calibrated: one softmax each
    group: float = 1.0  # weight of action clustering
    current: float = 1.0  # weight of the current frame
    clip: float = 0.0  # weight of the encoder's own zero-shot scores, their mean over the window; 0 is without
    clip_form: str = "standard"  # standard | code: features normalised before the projection and not after
    top: int = 5  # code_mean: classes of the whole clip that a group may be
    background: str = "none"  # none | mask: scores of actions times the predicted mask


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


CONFIG = OvoadConfig
STAGES = OvoadStages

_CHOICES = {
    "model.dntr": ("decoder", "encoder_xattn", "encoder", "none"),
    "model.dntr_norm": ("hybrid", "pre"),
    "model.mask": ("causal", "near", "none"),
    "model.frames": ("auto", "near", "all"),
    "model.unit": ("grouping", "slot"),
    "model.assign_over": ("groups", "frames"),
    "model.normalise": ("sum_plus_one", "sum", "none"),
    "text.current_space": ("eot", "projected"),
    "loss.multi_positive": ("logsumexp", "mean_log"),
    "loss.mask_from": ("text", "logits"),
    "loss.mask_squash": ("minmax", "sigmoid"),
    "loss.mask_mean": ("batch", "frames"),
    "loss.equal_texts": ("negatives", "left_out"),
    "data.captions": ("sentences", "labels"),
    "data.labels": ("lstr", "early"),
    "encoder.feature": ("class_token", "embedding"),
    "fusion.mode": ("paper", "code_mean", "calibrated"),
    "fusion.clip_form": ("standard", "code"),
    "fusion.background": ("none", "mask"),
}
_POSITIVE = {
    "model": (
        "width", "past", "near", "heads", "mlp_ratio", "groups", "out_groups", "iterations", "project_hidden",
        "joint_width", "temperature", "max_scale",
    ),
    "data": ("val_size", "fps", "stride", "windows", "world_train", "world_test"),
    "fusion": ("top",),
}  # fmt: skip
_NOT_NEGATIVE = {
    "model": ("long", "dntr_layers", "cluster_layers", "group_layers"),
    "text": ("adapter", "adapter_scale", "max_tokens"),
    "loss": ("contrast", "current", "mask", "extra", "focal"),
    "fusion": ("group", "current", "clip"),
}
_SHARES = {"model": ("dropout", "attention_dropout", "drop_path"), "text": ("adapter_dropout",)}


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
    """Refuses settings that cannot work, before anything is built.

    Raises:
      VtjaxError: naming the field, its value and what would be right.
    """
    where = "config.method"
    check_choices(config, _CHOICES)
    check_positive(config, _POSITIVE)
    for table, good, rule in (
        (_NOT_NEGATIVE, lambda v: v >= 0, "must not be negative"),
        (_SHARES, lambda v: 0 <= v < 1, "lies in [0, 1)"),
    ):
        for section, fields in table.items():
            for field in fields:
                value = getattr(getattr(config, section), field)
                if not good(value):
                    raise VtjaxError(f"{where}.{section}.{field}={value}: {rule}")
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
    if not 0 <= config.data.world_negative <= 1:
        raise VtjaxError(f"{where}.data.world_negative={config.data.world_negative}: lies in [0, 1]")
    for name in ("train_templates", "test_templates"):
        templates = getattr(text, name)
        wrong = [t for t in templates if t.count("{}") != 1]
        if wrong or not templates:
            raise VtjaxError(f"{where}.text.{name}: {wrong or 'none'}; each needs one {{}} for the class name")
    if not text.background.strip():
        raise VtjaxError(f"{where}.text.background: the class without action needs a name")
