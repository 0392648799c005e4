"""Speed of live scoring with random weights: python -m vtjax.methods.ovoad.speed [--streams=1] [--dtype=float32]

Published sizes: the paper's model, and CLIP ViT-B/16 where frames rather than features go in. What is timed is the
whole of `LiveScorer.push_all`: checks, resampling, encoder, window, scores of all classes, and their way back to numpy.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from absl import flags

from vtjax import command_line

flags.DEFINE_integer("streams", 1, "Streams that are scored together.", lower_bound=1)
flags.DEFINE_integer("steps", 30, "Steps to time, after three that are not.", lower_bound=1)
flags.DEFINE_integer("classes", 20, "Classes, besides the background.", lower_bound=1)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of matmul inputs.")
flags.DEFINE_string("preset", "ViT-B/16", "Encoder of frames.")
flags.DEFINE_enum("dntr", "decoder", ["decoder", "encoder_xattn"], "The paper's model, or the released code's.")
flags.DEFINE_bool("frames", True, "Also from frames, with the encoder in the loop.")
flags.DEFINE_string("json", "", "File to write the figures to.")


def random_weights(function: Any, seed: int = 0) -> Any:
    """Normal numbers of the shapes that `function` returns; nothing is compiled."""
    import jax
    import numpy as np

    rng = np.random.default_rng(seed)
    draw = lambda x: (0.02 * rng.standard_normal(x.shape, np.float32)).astype(np.float32)
    return jax.tree.map(draw, jax.eval_shape(function))


def random_model(dtype: str = "float32", preset: str = "ViT-B/16", dntr: str = "decoder") -> tuple[Any, dict]:
    """(Scorer with an encoder, parameters), random, of published sizes."""
    import jax
    import jax.numpy as jnp

    from vtjax.encoders.clip import Encoder
    from vtjax.encoders.frames import FrameEncoder
    from vtjax.encoders.image import ImageTransform
    from vtjax.methods.ovoad.config import OvoadConfig
    from vtjax.methods.ovoad.embed import Scorer
    from vtjax.methods.ovoad.task import OvoadObjective
    from vtjax.nn.clip import Clip, clip_config
    from vtjax.text.tokenizer import WordTokenizer

    sizes = clip_config(preset)
    config = OvoadConfig()
    config = dataclasses.replace(
        config, model=dataclasses.replace(config.model, width=sizes.vision.width, dntr=dntr)
    )
    kind = jnp.dtype(dtype)
    tokenizer = WordTokenizer.from_texts(["a photo of action class background"], oov_buckets=64)
    objective = OvoadObjective(config, sizes, kind)
    batch = {name: jnp.zeros((1, *s.shape), s.dtype) for name, s in objective.example_spec().items()}
    params = random_weights(lambda: objective.init(jax.random.key(0), batch))
    pixels = jnp.zeros((1, sizes.vision.image_size, sizes.vision.image_size, 3))
    ids = jnp.zeros((1, sizes.text.context_length), jnp.int32)
    towers = random_weights(lambda: Clip(sizes).init(jax.random.key(0), pixels, ids)["params"])
    image = ImageTransform(sizes.vision.image_size, "squash")
    encoder = FrameEncoder(Encoder(sizes, towers, tokenizer, image, kind), config.encoder.feature)
    return Scorer(objective, tokenizer, encoder), params


def time_steps(live: Any, make: Any, steps: int) -> dict[str, float]:
    """Steps a second of each stream, and seconds of a step; processor_seconds add up over all cores, and are what a
    step costs where other work shares them. make: () -> one item a stream."""
    times, spent = [], []
    for _ in range(steps + 3):
        items = make()
        began, used = time.perf_counter(), time.process_time()
        scores = live.push_all(items)
        times.append(time.perf_counter() - began)
        spent.append(time.process_time() - used)
        assert len(scores) == live.streams
    times, spent = times[3:], spent[3:]
    return {
        "steps_per_second": steps / sum(times),
        "median_seconds": statistics.median(times),
        "best_seconds": min(times),
        "processor_seconds": statistics.median(spent),
    }


def measure(
    streams: int, steps: int, classes: int, dtype: str, preset: str, dntr: str, frames: bool
) -> dict[str, Any]:
    """The figures; rates are steps a second of every stream."""
    import jax
    import numpy as np

    from vtjax.methods.ovoad.stream import LiveScorer

    scorer, params = random_model(dtype, preset, dntr)
    rng = np.random.default_rng(0)
    rate, width = scorer.config.data.fps, scorer.config.model.width
    live = LiveScorer(scorer, params, [f"class {i}" for i in range(classes)], streams=streams, fps=rate)
    rows = lambda: [rng.standard_normal(width).astype(np.float32) for _ in range(streams)]
    figures: dict[str, Any] = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPUs",
        "streams": streams,
        "dtype": dtype,
        "dntr": dntr,
        "parameters": sum(x.size for name, tree in params.items() if name != "text" for x in jax.tree.leaves(tree)),
        "from features": time_steps(live, rows, steps),
    }
    if frames:
        pictures = lambda: [rng.integers(0, 256, (360, 640, 3), np.uint8) for _ in range(streams)]
        live.reset()
        figures[f"from frames of 640x360, {preset} in the loop"] = time_steps(live, pictures, steps)
    figures["load of the machine"] = os.getloadavg()[0]
    return figures


def speed(_: Sequence[str]) -> int:
    f = flags.FLAGS
    figures = measure(f.streams, f.steps, f.classes, f.dtype, f.preset, f.dntr, f.frames)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if f.json:
        from vtjax.files import write_atomically

        write_atomically(f.json, json.dumps(figures, indent=1) + "\n")
    return 0


def main() -> None:
    command_line.run(speed)


if __name__ == "__main__":
    main()
