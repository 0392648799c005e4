"""OV-OAD: open-vocabulary online action detection, trained from text (Zhao et al., NeurIPS 2024).

    python -m vtjax.train --config=configs/ovoad.py                 the demo, on streams of the embedded workshop world
    python -m vtjax.train --config=configs/ovoad.py:smoke           a few steps, to see that everything runs

Variants: smoke; demo (default); paper and code (published sizes, the paper's model and the released one; name
data.source, a folder of `vtjax.prepare --kind=video --fps=4 --features=...`, and encoder.weights); internvid (paper, on
InternVid's captions); table 7 and 8 of the paper: dntr_none, dntr_encoder, dntr_encoder_xattn, unit_decoder, unit_slot,
text_plain, text_frozen, text_frozen_adapter; table 4: loss_contrast, loss_current, loss_mask.
"""

import dataclasses

from vtjax.config import Experiment, Loader, Optim, Stage, Train, variant_of
from vtjax.methods.clip.config import (
    ClipConfig,
    ClipDataConfig,
    ClipLossConfig,
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
from vtjax.studies import Row, Study

# Gains, biases and scales are not decayed.
NO_DECAY = r"(bias|/scale|logit_scale|multi_label_scale)$"


def demo() -> Experiment:
    clip = ClipConfig(
        model=ClipModelConfig(
            embed_dim=96,
            vision=VisionSizes(image_size=64, patch_size=16, width=96, layers=3, heads=4, mlp_width=288),
            text=TextSizes(width=96, layers=1, heads=4, mlp_width=288),
            frames=1,
            temporal="mean",
        ),
        text=ClipTextConfig(tokenizer="words", max_tokens=20, vocab_size=256),
        loss=ClipLossConfig(),
        data=ClipDataConfig(crop=0.9, world_train=4000, world_test=64, world_frames=4, val_size=64),
    )
    method = OvoadConfig(
        model=OvoadModelConfig(
            width=96,
            heads=4,
            mlp_ratio=3,
            dropout=0.05,
            attention_dropout=0.0,
            drop_path=0.0,
            dntr_layers=2,
            cluster_layers=2,
            group_layers=1,
            project_hidden=192,
            joint_width=96,
        ),
        text=OvoadTextConfig(adapter=16, current_space="projected"),
        loss=OvoadLossConfig(current=0.5, equal_texts="left_out"),
        data=OvoadDataConfig(
            test_split="everything", val_size=8, cold_start=True, balance=True, world_train=120, world_test=40
        ),
        encoder=OvoadEncoderConfig(clip=clip),
        fusion=OvoadFusionConfig(),
    )
    return Experiment(
        name="ovoad",
        method=method,
        optim=Optim(
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=60,
            weight_decay=0.05,
            no_decay=NO_DECAY,
            rates=(r"^text/(?!.*parallel_adapter)=0.2",),
        ),
        train=Train(steps=500, batch_size=64, log_every=20, eval_every=250, checkpoint_every=250),
        stages=OvoadStages(
            pretrain=Stage(
                optim=Optim(
                    learning_rate=2e-3,
                    schedule="cosine",
                    warmup_steps=60,
                    betas=(0.9, 0.98),
                    weight_decay=0.05,
                    no_decay=NO_DECAY,
                ),
                train=Train(steps=700, batch_size=64, log_every=20, checkpoint_every=350),
            )
        ),
        loader=Loader(threads=2),
    )


VARIANTS = {"demo": demo}


def get_config(variant: str = "demo") -> Experiment:
    return variant_of(variant, VARIANTS)()
