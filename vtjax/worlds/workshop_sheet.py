"""Draws a sample sheet of the workshop world: every verb, a stream with its labels, a task with its speech.

    python -m vtjax.worlds.workshop_sheet --output=workshop.png
    python -m vtjax.worlds.workshop_sheet --output=workshop.png --index=3 --split=train --size=128
"""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax import command_line
from vtjax.errors import VtjaxError
from vtjax.worlds.workshop import WORKSHOP_VERSION, Workshop
from vtjax.worlds.workshop_types import Clip, Settings, Stream, TaskVideo
from vtjax.worlds.workshop_verbs import LABEL, VERB, VERB_NAMES

_COLUMNS = 8
_ROWS = {"truth": 1, "film": 3, "tracks": 4, "task": 6, "speech": 7}  # below the verbs


def _colours() -> np.ndarray:
    import matplotlib

    return matplotlib.colormaps["tab20"](np.linspace(0, 1, len(VERB_NAMES)))


def _strip(frames: np.ndarray, picks: np.ndarray, gap: int = 3) -> np.ndarray:
    """u8 [H, W', 3]: the picked frames side by side on white."""
    blank = np.full((frames.shape[1], gap, 3), 255, np.uint8)
    parts = [part for i in picks for part in (frames[i], blank)]
    return np.concatenate(parts[:-1], axis=1)


def _picks(frames: int, count: int) -> np.ndarray:
    return np.linspace(0, frames - 1, count).round().astype(int)


def _verb_row(axes, clip: Clip) -> None:
    axes.imshow(_strip(clip.frames, _picks(len(clip.frames), _COLUMNS)), aspect="equal")
    axes.set_axis_off()
    text = "\n".join(textwrap.wrap(clip.captions[0].text, 26))
    where = dict(transform=axes.transAxes, ha="right", va="center")
    axes.text(-0.01, 0.8, clip.action.verb, fontsize=13, fontweight="bold", **where)
    axes.text(-0.01, 0.35, text, fontsize=10, **where)


def _truth_row(axes, clip: Clip) -> None:
    """Frames with boxes of what can be seen, masks, and the caption with its noun phrases marked."""
    from matplotlib.patches import Rectangle

    colours = _colours()
    picks = _picks(len(clip.frames), _COLUMNS)[1:7]
    palette = np.concatenate([np.zeros((1, 3)), colours[:, :3]])
    mask = (255 * palette[np.minimum(clip.masks, len(palette) - 1)]).astype(np.uint8)
    size = clip.frames.shape[1]
    axes.imshow(np.concatenate([_strip(clip.frames, picks), _strip(mask, picks)], axis=1))
    for place, frame in enumerate(picks):
        for entity, box in enumerate(clip.tracks.visible_boxes[:, frame]):
            if clip.tracks.visible[entity, frame]:
                x, y, x1, y1 = box * size
                edge = dict(fill=False, edgecolor=colours[entity], linewidth=1.5)
                axes.add_patch(Rectangle((x + place * (size + 3), y), x1 - x, y1 - y, **edge))
    axes.set_axis_off()
    axes.set_title("truth: boxes of what is seen, entity masks, noun phrases tied to entities", fontsize=11)
    caption = clip.captions[1]
    phrases = [f"[{caption.text[s.begin:s.end]}] = {s.entity} {clip.entities[s.entity].name}" for s in caption.spans]
    text = "\n".join(textwrap.wrap(caption.text, 28) + phrases)
    axes.text(-0.01, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=10)


def _bars(axes, y: float, spans: Sequence[tuple[float, float, str, object]], height: float = 0.8) -> None:
    for start, stop, text, colour in spans:
        axes.broken_barh([(start, stop - start)], (y - height / 2, height), facecolors=[colour], edgecolor="white")
        axes.text(0.5 * (start + stop), y, text, ha="center", va="center", fontsize=9, clip_on=True)


def _film(axes, video: Stream, count: int = 15) -> None:
    duration = len(video.frames) / video.fps
    picks = (np.arange(count) + 0.5) * len(video.frames) / count
    tall = duration / count
    strip = _strip(video.frames, picks.astype(int), 1)
    axes.imshow(strip, extent=(0, duration, 0, tall), aspect="auto")
    axes.set_axis_off()
    axes.set_xlim(0, duration)


def _timeline(axes, video: Stream) -> None:
    """Actions above, and below them how much of each entity can be seen."""
    duration = len(video.frames) / video.fps
    _bars(axes, 0, [(s.start, s.stop, s.verb, _colours()[s.label]) for s in video.segments])
    names = [e.name for e in video.entities]
    extent = (0, duration, -0.6 - len(names), -0.6)
    axes.imshow(video.tracks.visibility, extent=extent, aspect="auto", cmap="Greys_r", vmin=0, vmax=1)
    axes.set_yticks([0, *(-1.1 - i for i in range(len(names)))], ["action", *names], fontsize=9)
    axes.set_ylim(-0.6 - len(names), 0.6)
    axes.set_xlim(0, duration)
    axes.set_xlabel("seconds   (below the actions: seen share of each entity; black is hidden or absent)", fontsize=10)


def _speech(axes, video: TaskVideo) -> None:
    """The performed steps, and each spoken sentence with the step that it speaks of."""
    duration = len(video.frames) / video.fps
    _bars(axes, 0, [(s.start, s.stop, f"{s.step + 1}", _colours()[s.label]) for s in video.segments])
    for row, said in enumerate(video.narrations, start=1):
        colour = _colours()[LABEL[video.script[said.step].verb]] if said.step >= 0 else (0.85, 0.85, 0.85, 1)
        _bars(axes, -row, [(said.start, said.stop, "", colour)])
        note = "irrelevant" if said.step < 0 else f"step {said.step + 1}" + ("" if said.alignable else ", left out")
        late = said.start > 0.6 * duration
        place = (said.start - 0.3, "right") if late else (said.stop + 0.3, "left")
        axes.text(place[0], -row, f"“{said.caption.text}” ({note})", ha=place[1], va="center", fontsize=9)
    axes.set_yticks([0], ["step"], fontsize=10)
    axes.set_ylim(-len(video.narrations) - 0.7, 0.7)
    axes.set_xlim(0, duration)
    lines = [f"{i + 1}. {s.headline.text}{'' if s.performed else ' (left out)'}" for i, s in enumerate(video.script)]
    axes.set_xlabel("seconds\n" + "    ".join(lines[:3]) + "\n" + "    ".join(lines[3:]), fontsize=10)


def sheet(world: Workshop, index: int) -> Any:
    """A matplotlib figure of samples `index` of the world: verbs, truth, a stream and a task."""
    try:
        import matplotlib
    except ImportError as error:
        raise VtjaxError("the sample sheet is drawn with matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    stream, task = world.stream(index), world.task(index)
    order = [v for v in world.verbs if VERB[v].reverse != v] + [v for v in world.verbs if VERB[v].reverse == v]
    clips = {verb: world.clip(index + place // 2, verb) for place, verb in enumerate(order)}
    rows = (len(order) + 1) // 2
    tracks, speech = 0.3 + 0.22 * (1 + len(stream.entities)), 0.3 + 0.22 * (1 + len(task.narrations))
    heights = [1.3] * rows + [0.3, 2.0, 0.3, 1.3, tracks, 0.8, 1.3, speech, 0.9]  # rows of air among them
    figure = plt.figure(figsize=(23, 1.06 * sum(heights)))
    grid = figure.add_gridspec(
        len(heights), 2, height_ratios=heights, left=0.11, right=0.995, top=0.97, bottom=0.0, hspace=0.06, wspace=0.26
    )
    for place, verb in enumerate(order):
        _verb_row(figure.add_subplot(grid[place // 2, place % 2]), clips[verb])
    wide = {name: figure.add_subplot(grid[rows + at, :]) for name, at in _ROWS.items()}
    _truth_row(wide["truth"], max(clips.values(), key=lambda clip: len(clip.entities)))
    _film(wide["film"], stream)
    wide["film"].set_title("an untrimmed stream", fontsize=11)
    _timeline(wide["tracks"], stream)
    _film(wide["task"], task)
    wide["task"].set_title(f"a task video: {task.task}", fontsize=11)
    _speech(wide["speech"], task)
    figure.suptitle(f"{WORKSHOP_VERSION}, seed {world.seed}, split {world.split}, sample {index}", y=0.99)
    return figure


def main(argv: Sequence[str]) -> int:
    from absl import flags

    if len(argv) > 1:
        raise VtjaxError(f"unexpected argument {argv[1]!r}: every option is a flag, --name=value; see --help")
    values = flags.FLAGS
    if not values.output:
        raise VtjaxError("--output is needed, for example --output=workshop.png")
    path = pathlib.Path(values.output)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise VtjaxError(f"--output={path}: the sheet is a picture; end the name in .png, .pdf or .svg")
    world = Workshop(values.seed, values.size, values.split, Settings(stream_seconds=values.seconds))
    figure = sheet(world, values.index)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    from absl import flags

    flags.DEFINE_string("output", "", "Picture to write: .png, .pdf or .svg.")
    flags.DEFINE_integer("seed", 0, "Seed of the world.")
    flags.DEFINE_integer("index", 0, "Which sample.")
    flags.DEFINE_integer("size", 112, "Height and width of a frame in pixels.")
    flags.DEFINE_string("split", "everything", "Split of the world; see workshop_verbs.SPLITS.")
    flags.DEFINE_float("seconds", 40.0, "Length of the stream.")
    command_line.run(main)
