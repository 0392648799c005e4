"""OV-OAD: open-vocabulary online action detection, trained from text (Zhao et al., NeurIPS 2024).

    python -m vtjax.train --config=configs/ovoad.py                 the demo, on streams of the embedded workshop world
    python -m vtjax.train --config=configs/ovoad.py:smoke           a few steps, to see that everything runs

The demo takes 5 min 9 s on two idle cores, its encoder's pretraining included. To be expected, one seed, mAP by `lstr`
of 15 verbs (chance 2.8): 5.5, against 3.3 of single frames and 3.4 of the mean of 8. With a better encoder, as in the
studies, 10.5 against 3.4 and 3.3 (three seeds).

Variants: smoke; demo (default); paper and code (published sizes and settings, the paper's model and the released one;
data.source is a folder of `vtjax.prepare --kind=video --fps=4 --features=...`, encoder.weights a published CLIP);
internvid (paper, on InternVid's captions); and the paper's ablations: loss_contrast, loss_current, loss_mask (table 4),
past16_near8, past24_near4, past32_near8 (5), depth_0_9_3, depth_4_6_0 (6), dntr_none, dntr_encoder, dntr_encoder_xattn,
unit_decoder, unit_slot (7), text_plain, text_frozen, text_frozen_adapter (8).
Studies, both of 1,500 steps on the encoder that `python -m vtjax.train --config=configs/clip.py:long` leaves in
runs/clip-long: headline (three seeds), ablations.
"""

import dataclasses
import functools
import pathlib
from typing import Any

from vtjax.config import Experiment, Loader, Optim, Stage, Train, load_config_file, variant_of
from vtjax.encoders.clip_config import (
    ClipConfig,
    ClipDataConfig,
    ClipModelConfig,
    ClipTextConfig,
    TextSizes,
    VisionSizes,
)
from vtjax.methods.ovoad.config import (
    OvoadConfig,
    OvoadDataConfig,
    OvoadEncoderConfig,
    OvoadFusionConfig,
    OvoadLossConfig,
    OvoadModelConfig,
    OvoadStages,
    OvoadTextConfig,
)
from vtjax.studies import Row, Study, override

# Gains, biases and scales are not decayed.
NO_DECAY = r"(bias|/scale|logit_scale|multi_label_scale)$"


def demo() -> Experiment:
    # The encoder is that of configs/clip.py, with its settings.
    clip = load_config_file(str(pathlib.Path(__file__).with_name("clip.py")))
    clip.method.data = dataclasses.replace(clip.method.data, world_test=64, val_size=64)
    method = OvoadConfig(
        model=OvoadModelConfig(
            width=128,
            past=8,
            heads=4,
            mlp_ratio=2,
            dropout=0.0,
            attention_dropout=0.0,
            drop_path=0.0,
            dntr_layers=3,
            cluster_layers=2,
            group_layers=1,
            project_hidden=256,
            joint_width=128,
        ),
        # Frozen but for its adapters, as the paper's on InternVid, whose captions are sentences as well.
        text=OvoadTextConfig(adapter=16, current_space="projected", freeze=True),
        loss=OvoadLossConfig(current=1.0, equal_texts="left_out"),
        data=OvoadDataConfig(
            test_split="everything", val_size=12, cold_start=True, balance=True, windows=8, world_train=300,
            world_test=40,
        ),
        encoder=OvoadEncoderConfig(clip=clip.method),
        fusion=OvoadFusionConfig(group=0.5),
    )
    return Experiment(
        name="ovoad",
        method=method,
        optim=Optim(
            learning_rate=2e-3,
            schedule="cosine",
            warmup_steps=60,
            weight_decay=0.05,
            no_decay=NO_DECAY,
        ),
        train=Train(steps=400, batch_size=8, log_every=20, eval_every=200, checkpoint_every=200),
        stages=OvoadStages(pretrain=Stage(clip.optim, dataclasses.replace(clip.train, eval_every=0))),
        loader=Loader(threads=2),
    )


def smoke() -> Experiment:
    experiment = demo()
    method, clip = experiment.method, experiment.method.encoder.clip
    clip.model.embed_dim = 32
    clip.model.vision = VisionSizes(image_size=32, patch_size=16, width=32, layers=1, heads=2, mlp_width=64)
    clip.model.text = TextSizes(width=32, layers=1, heads=2, mlp_width=64)
    clip.data = ClipDataConfig(world_train=48, world_test=16, val_size=8, world_frames=4)
    method.model = dataclasses.replace(
        method.model, width=32, heads=2, dntr_layers=1, cluster_layers=1, group_layers=1, project_hidden=32,
        joint_width=32,
    )  # fmt: skip
    method.text.adapter = 4
    method.data = dataclasses.replace(method.data, world_train=4, world_test=4, val_size=2, windows=2)
    experiment.train = Train(steps=12, batch_size=16, log_every=4, eval_every=6, checkpoint_every=6)
    experiment.optim.warmup_steps = 2
    pretrain = experiment.stages.pretrain
    pretrain.train = Train(steps=8, batch_size=16, log_every=4, checkpoint_every=4)
    pretrain.optim.warmup_steps = 2
    return experiment


def paper() -> Experiment:
    # 6,435,178 windows of ActivityNet in batches of 256, 30 epochs, 2 of warm-up.
    epoch = 25_137
    published = "openai/clip-vit-base-patch16"
    clip = ClipConfig(
        model=ClipModelConfig(preset="ViT-B/16", temporal="mean", frames=1), text=ClipTextConfig(vocabulary=published)
    )
    method = OvoadConfig(
        data=OvoadDataConfig(source="prepared/activitynet", captions="labels", val_size=200),
        encoder=OvoadEncoderConfig(weights=published, clip=clip),
        fusion=OvoadFusionConfig(mode="paper"),
    )
    return Experiment(
        name="ovoad",
        method=method,
        optim=Optim(
            learning_rate=1.6e-4,
            schedule="cosine",
            warmup_steps=2 * epoch,
            final_ratio=0.1,
            weight_decay=0.05,
            no_decay=NO_DECAY,
            clip_norm=5.0,
        ),
        train=Train(steps=30 * epoch, batch_size=256, log_every=50, eval_every=epoch, checkpoint_every=5000),
        stages=OvoadStages(),
        loader=Loader(workers=8),
    )


def code() -> Experiment:
    # Batches of 8 x 256; 6.4e-5 and the floor of 1.6e-5 are for 4,096, so half of each. Its scales are decayed.
    epoch = 3_142
    experiment = paper()
    method = experiment.method
    method.model = OvoadModelConfig(dntr="encoder_xattn")
    method.loss = OvoadLossConfig(multi_positive="mean_log", mask_from="logits", mask_mean="frames")
    method.data.labels = "early"
    method.fusion = OvoadFusionConfig(mode="code_mean", clip=1.0, clip_form="code")
    experiment.optim = dataclasses.replace(
        experiment.optim, learning_rate=3.2e-5, final_ratio=0.25, warmup_steps=2 * epoch, no_decay=r"(bias|/scale)$"
    )
    experiment.train = dataclasses.replace(
        experiment.train, steps=30 * epoch, batch_size=2048, eval_every=epoch, checkpoint_every=1000
    )
    return experiment


def internvid() -> Experiment:
    """InternVid-5K: 12,424,546 windows; its text tower learns by its adapters alone."""
    epoch = 48_533
    experiment = paper()
    experiment.method.data = OvoadDataConfig(source="prepared/internvid", captions="sentences", val_size=200)
    experiment.method.text.freeze = True
    experiment.optim.warmup_steps = 2 * epoch
    experiment.train = dataclasses.replace(experiment.train, steps=30 * epoch, eval_every=epoch)
    return experiment


# The paper's own ablations: tables 4, 5, 6, 7 and 8.
PAPER_ABLATIONS: dict[str, dict[str, Any]] = {
    "loss_contrast": {"loss.current": 0.0, "loss.mask": 0.0, "fusion.current": 0.0},
    "loss_current": {"loss.mask": 0.0},
    "loss_mask": {"loss.current": 0.0, "fusion.current": 0.0},
    "past16_near8": {"model.past": 16},
    "past24_near4": {"model.near": 4},
    "past32_near8": {"model.past": 32},
    "depth_0_9_3": {"model.dntr": "none", "model.cluster_layers": 9, "model.group_layers": 3},
    "depth_4_6_0": {"model.group_layers": 0},
    "dntr_none": {"model.dntr": "none"},
    "dntr_encoder": {"model.dntr": "encoder"},
    "dntr_encoder_xattn": {"model.dntr": "encoder_xattn"},
    "unit_decoder": {"model.assign_over": "frames", "model.hard": False, "model.gumbel": False},
    "unit_slot": {"model.unit": "slot"},
    "text_plain": {"text.adapter": 0},
    "text_frozen": {"text.adapter": 0, "text.freeze": True},
    "text_frozen_adapter": {"text.freeze": True},
}


def ablated(name: str) -> Experiment:
    experiment = paper()
    for path, value in PAPER_ABLATIONS[name].items():
        override(experiment, f"method.{path}", value)
    return experiment


ALL, SEEN, NEW = "all classes", "seen classes", "held-out classes"


def columns(system: str, words: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{words}, {group}", f"detection/lstr/{system}/{group}/mAP") for group in (ALL, SEEN, NEW))


COLUMNS = (
    *columns("fused", "OV-OAD"),
    *columns("zero-shot single frame", "single frame"),
    *columns("zero-shot mean of 8 frames", "mean of 8"),
    *columns("zero-shot clip of the last frames", "its clips"),
    *columns("current frame alone", "current"),
    *columns("clustering alone", "clustering"),
)
# One encoder for all.
GIVEN = {
    "method.data.cache": "runs/ovoad-cache", "method.encoder.weights": "runs/clip-long", "method.data.val_size": 40,
    "train.steps": 1500, "train.eval_every": 500, "train.checkpoint_every": 500,
}  # fmt: skip
HEADLINE = (Row("OV-OAD", GIVEN, seeds=(0, 1, 2)),)
LESS_FOR_TEXT = (r"^text/(?!.*parallel_adapter)=0.2",)
ABLATIONS = (
    Row("no clustering", {**GIVEN, "method.model.clustering": False, "method.loss.mask": 0.0}),
    Row("no current-frame loss", {**GIVEN, "method.loss.current": 0.0, "method.fusion.current": 0.0}),
    Row("no mask loss", {**GIVEN, "method.loss.mask": 0.0}),
    Row("single caption", {**GIVEN, "method.loss.extra": 0}),
    Row("text tower learns too", {**GIVEN, "method.text.freeze": False, "optim.rates": LESS_FOR_TEXT}),
)
STUDIES = {
    "headline": Study(HEADLINE, COLUMNS, about="Three seeds, against the encoder's zero-shot scores."),
    "ablations": Study(ABLATIONS, COLUMNS, about="Parts taken away one by one."),
}
VARIANTS = {
    "demo": demo, "smoke": smoke, "paper": paper, "code": code, "internvid": internvid,
    **{name: functools.partial(ablated, name) for name in PAPER_ABLATIONS},
}  # fmt: skip


def get_config(variant: str = "demo") -> Experiment:
    return variant_of(variant, VARIANTS)()
