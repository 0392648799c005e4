"""LLaMA on texts, with LoRA on published weights, and planned for slices: the language tower of PiTe alone.

    python -m vtjax.train --config=configs/llama.py                the demo: what happens first in a caption of the
                                                                   motion world, learnt from scratch by a tiny model
    python -m vtjax.train --config=configs/llama.py:smoke          a few steps, to see that everything runs
    python -m vtjax.plan --config=configs/llama.py:7b --topology=v5p-128

Variants: smoke; demo (default); 7b (also paper), 13b (PiTe's rank, length 2,048, batch 256; name model.pretrained and
data.source, lines of JSON with "prompt" and "answer", or "text").
"""

from vtjax.config import Experiment, Loader, Mesh, Optim, Train, variant_of
from vtjax.methods.llama.config import LlamaConfig, LlamaDataConfig, LlamaModelConfig, LlamaTextConfig


def demo() -> Experiment:
    return Experiment(
        name="llama",
        method=LlamaConfig(
            LlamaModelConfig(preset="tiny", learns="all"), LlamaTextConfig(max_tokens=96, chunk=96), LlamaDataConfig()
        ),
        optim=Optim(learning_rate=2e-3, schedule="cosine", warmup_steps=50),
        train=Train(steps=600, batch_size=32, log_every=20, eval_every=200, checkpoint_every=200),
        loader=Loader(threads=2),
    )


def smoke() -> Experiment:
    experiment = demo()
    experiment.method.data.world_size = 120
    experiment.train = Train(steps=6, batch_size=8, log_every=2, eval_every=3, checkpoint_every=3)
    experiment.optim.warmup_steps = 2
    return experiment


def published(preset: str, mesh: Mesh) -> Experiment:
    # PiTe's and VTimeLLM's adapters: rank 64, alpha 128, learning rate 1e-4, cosine.
    return Experiment(
        name="llama",
        method=LlamaConfig(LlamaModelConfig(preset=preset, remat="full"), LlamaTextConfig(), LlamaDataConfig()),
        optim=Optim(learning_rate=1e-4, schedule="cosine", warmup_steps=100, weight_decay=0.0),
        train=Train(steps=3000, batch_size=256, log_every=10, checkpoint_every=200),
        loader=Loader(workers=8),
        mesh=mesh,
    )


def llama_7b() -> Experiment:
    return published("7b", Mesh(fsdp=16, tensor=4))


def llama_13b() -> Experiment:
    return published("13b", Mesh(fsdp=16, tensor=8))


VARIANTS = {"demo": demo, "smoke": smoke, "paper": llama_7b, "7b": llama_7b, "13b": llama_13b}


def get_config(variant: str = "demo") -> Experiment:
    return variant_of(variant, VARIANTS)()
