"""CLIP on videos: contrastive video-text pretraining (Radford et al., arXiv 2103.00020; SigLIP, arXiv 2303.15343).

    python -m vtjax.train --config=configs/clip.py                 the demo, on the embedded workshop world
    python -m vtjax.train --config=configs/clip.py:smoke           a few steps, to see that everything runs
    python -m vtjax.train --config=configs/clip.py:videos --config.method.data.source=PREPARED_VIDEOS

The demo takes 4 min 32 s on two idle cores. To be expected on clips of verb-object pairs never trained on, one seed:
3.7 % top-1 among 92 classes (chance 1.1 %), 15 % among the 25 of such pairs (chance 4 %), order of frames 63 % (chance
50 %). `long`, five times the steps on four times the clips, takes 19 min and reaches 18, 43 and 92 %.

Studies, one table each: python -m vtjax.study --config=configs/clip.py --study=headline (or order, losses), with one
--output for all three to train what they share once.

Variants: smoke; demo (default); long (the encoder that the studies of configs/ovoad.py start from); videos (a prepared
folder of your own videos, small model, random weights); finetune (the same from published CLIP weights, settings of
CLIP4Clip); b32, b16, l14 (published sizes and settings, random weights; name data.source and text.vocabulary; paper is
l14).
"""

from vtjax.config import Experiment, Loader, Optim, Train, variant_of
from vtjax.encoders.clip_config import (
    ClipConfig,
    ClipDataConfig,
    ClipLossConfig,
    ClipModelConfig,
    ClipTextConfig,
    TextSizes,
    VisionSizes,
)
from vtjax.studies import Row, Study

# Gains, biases and the scale are not decayed (CLIP, section 2.5).
NO_DECAY = r"(bias|/scale|logit_scale|logit_bias)$"


def demo() -> Experiment:
    method = ClipConfig(
        model=ClipModelConfig(
            embed_dim=128,
            vision=VisionSizes(image_size=64, patch_size=16, width=128, layers=3, heads=4, mlp_width=512),
            text=TextSizes(width=96, layers=2, heads=4, mlp_width=384),
            frames=4,
            temporal_layers=2,
        ),
        text=ClipTextConfig(tokenizer="words", max_tokens=20, vocab_size=256),
        loss=ClipLossConfig(backwards=True),
        data=ClipDataConfig(crop=0.9),
    )
    return Experiment(
        name="clip",
        method=method,
        optim=Optim(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=60,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            no_decay=NO_DECAY,
        ),
        train=Train(steps=600, batch_size=64, log_every=20, eval_every=300, checkpoint_every=300),
        loader=Loader(threads=2),
    )


def long() -> Experiment:
    experiment = demo()
    experiment.method.data.world_train = 12_000
    experiment.train = Train(steps=3000, batch_size=64, log_every=20, eval_every=750, checkpoint_every=750)
    return experiment


def smoke() -> Experiment:
    experiment = demo()
    method = experiment.method
    method.model.vision = VisionSizes(image_size=32, patch_size=16, width=32, layers=1, heads=2, mlp_width=64)
    method.model.text = TextSizes(width=32, layers=1, heads=2, mlp_width=64)
    method.model.embed_dim = 32
    method.model.temporal_layers = 1
    method.data = ClipDataConfig(world_train=48, world_test=40, val_size=16, world_frames=4)
    experiment.train = Train(steps=12, batch_size=16, log_every=4, eval_every=6, checkpoint_every=6)
    experiment.optim.warmup_steps = 2
    return experiment


def videos() -> Experiment:
    """Your own videos: a folder made by `vtjax.prepare --kind=video` with captions, labels or both."""
    experiment = demo()
    method = experiment.method
    method.text = ClipTextConfig(tokenizer="words", max_tokens=32, vocab_size=4096)
    method.loss = ClipLossConfig()
    method.data = ClipDataConfig(source="prepared/videos", crop=0.8)
    experiment.optim.warmup_steps = 20
    experiment.train = Train(steps=500, batch_size=32, log_every=20, eval_every=250, checkpoint_every=250)
    return experiment


def finetune() -> Experiment:
    """Your own videos from published weights, as CLIP4Clip's seqTransf: towers at a thousandth of the rate."""
    experiment = videos()
    method = experiment.method
    method.model = ClipModelConfig(
        pretrained="openai/clip-vit-base-patch32", frames=12, temporal_layers=4, temporal_heads=8
    )
    method.text = ClipTextConfig()
    experiment.optim = Optim(
        learning_rate=1e-4,
        schedule="cosine",
        warmup_steps=100,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.2,
        no_decay=NO_DECAY,
        clip_norm=1.0,
        rates=(r"^(vision|text)/|^logit_scale$=0.001",),
    )
    experiment.train = Train(steps=5000, batch_size=128, log_every=50, eval_every=1000, checkpoint_every=1000)
    experiment.loader = Loader(workers=8)
    return experiment


def published(preset: str, learning_rate: float) -> Experiment:
    # 400 million pairs, 32 epochs, batches of 32,768 (CLIP, section 2.5 and table 18).
    method = ClipConfig(
        model=ClipModelConfig(preset=preset, frames=8, temporal="mean", scan=True, remat="dots_no_batch"),
        text=ClipTextConfig(vocabulary="openai/clip-vit-base-patch32"),
        loss=ClipLossConfig(),
        data=ClipDataConfig(source="prepared/videos"),
    )
    return Experiment(
        name="clip",
        method=method,
        optim=Optim(
            learning_rate=learning_rate,
            schedule="cosine",
            warmup_steps=2000,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.2,
            no_decay=NO_DECAY,
        ),
        train=Train(steps=390_625, batch_size=32_768, log_every=50, eval_every=5000, checkpoint_every=1000),
        loader=Loader(workers=16),
    )


def b32() -> Experiment:
    return published("ViT-B/32", 5e-4)


def b16() -> Experiment:
    return published("ViT-B/16", 5e-4)


def l14() -> Experiment:
    return published("ViT-L/14", 4e-4)


COLUMNS = (
    ("held-out pairs, top-1", "zero-shot/held-out pairs/all classes/top-1"),
    ("unseen renderings, top-1", "zero-shot/unseen renderings/all classes/top-1"),
    ("verbs of held-out pairs", "zero-shot/held-out pairs/verbs/top-1"),
    ("order, held-out pairs", "order/held-out pairs/captions/accuracy"),
    ("order, unseen renderings", "order/unseen renderings/captions/accuracy"),
    ("R@1 of 32 t2v", "retrieval/batches of 32/t2v/R@1"),
)
SINGLE = {"method.model.frames": 1, "method.model.temporal": "mean", "method.data.sampling": "uniform"}
DEMO = Row("the demo")  # of one name in every study: in one --output folder it is run once
ORDER = (
    Row("single frame", SINGLE),
    Row("mean of frames", {"method.model.temporal": "mean"}),
    Row("without backward clips", {"method.loss.backwards": False}),
    DEMO,
)
LOSSES = (DEMO, Row("sigmoid", {"method.loss.name": "sigmoid"}))
STUDIES = {
    "headline": Study((Row("the demo", seeds=(0, 1, 2)),), COLUMNS, about="The demo with three seeds."),
    "order": Study(ORDER, COLUMNS, about="What sees the order of frames: the demo, its parts taken away one by one."),
    "losses": Study(LOSSES, COLUMNS, about="The demo with either loss."),
}
VARIANTS = {
    "demo": demo, "long": long, "smoke": smoke, "videos": videos, "finetune": finetune,
    "paper": l14, "b32": b32, "b16": b16, "l14": l14,
}  # fmt: skip


def get_config(variant: str = "demo") -> Experiment:
    return variant_of(variant, VARIANTS)()
