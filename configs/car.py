"""CAR: text <-> motion retrieval that respects the order of events (Fujiwara et al., ECCV 2024, on TMR, ICCV 2023).

    python -m vtjax.train --config=configs/car.py                  the demo, on the embedded motion world
    python -m vtjax.train --config=configs/car.py:smoke            a few steps, to see that everything runs
    python -m vtjax.train --config=configs/car.py:paper --config.method.data.source=PREPARED_HUMANML3D

Variants: smoke; demo (default); paper (released settings: DistilBERT frozen, 200 epochs of HumanML3D); tmr (paper
without negatives: the baseline); caption (paper's original-to-event mode).
"""

from vtjax.config import Experiment, Loader, Optim, Train, variant_of
from vtjax.methods.car.config import CarConfig, CarDataConfig, CarLossConfig, CarModelConfig, CarTextConfig


def demo() -> Experiment:
    method = CarConfig(
        model=CarModelConfig(max_frames=128, patch=8, latent=64, layers=2, heads=4, ff=256),
        text=CarTextConfig(encoder="builtin", max_tokens=48, width=64, vocab_size=512),
        loss=CarLossConfig(motion_negatives=1, filter="sequence", sentence_width=256, sample_scale=1.0),
        data=CarDataConfig(),
    )
    return Experiment(
        name="car",
        method=method,
        optim=Optim(learning_rate=5e-4, schedule="cosine", warmup_steps=100),
        train=Train(steps=1500, batch_size=64, log_every=25, eval_every=500, checkpoint_every=250),
        loader=Loader(threads=2),
    )


def smoke() -> Experiment:
    experiment = demo()
    method = experiment.method
    method.model = CarModelConfig(max_frames=128, patch=8, latent=32, layers=1, heads=2, ff=64)
    method.text.width = 32
    method.data = CarDataConfig(world_train=96, world_test=48, val_size=32)
    experiment.train = Train(steps=12, batch_size=16, log_every=4, eval_every=6, checkpoint_every=6)
    experiment.optim.warmup_steps = 2
    return experiment


def paper() -> Experiment:
    # 23,384 training ids / 32 per batch = 730 steps an epoch, 200 epochs (car.md 3.5).
    method = CarConfig(loss=CarLossConfig(), data=CarDataConfig())
    train = Train(
        steps=146_000,
        batch_size=32,
        log_every=50,
        eval_every=730,
        checkpoint_every=730,
        best=("retrieval/all/m2t/R@1", "retrieval/all/t2m/R@1"),
    )
    return Experiment(
        name="car",
        seed=1234,
        method=method,
        optim=Optim(learning_rate=1e-4, weight_decay=0.01, rates=(r"^language_model/=0.1",)),
        train=train,
        loader=Loader(workers=8),
    )


def tmr() -> Experiment:
    experiment = paper()
    experiment.method.loss.text_negatives = 0
    return experiment


def caption() -> Experiment:
    experiment = paper()
    experiment.method.loss.positive_text = "caption"
    return experiment


VARIANTS = {"demo": demo, "smoke": smoke, "paper": paper, "tmr": tmr, "caption": caption}


def get_config(variant: str = "demo") -> Experiment:
    return variant_of(variant, VARIANTS)()
