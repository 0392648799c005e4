"""The report of a run: figures, per-class precision, curves, and test videos replayed as they were scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.evals.frame_detection import stage_precision
from vtjax.evals.protocol import Result
from vtjax.methods.ovoad.evaluate import Scored, open_scored
from vtjax.report.markup import element
from vtjax.report.page import Page, Tile
from vtjax.report.player import draw_player
from vtjax.report.timeline import Timeline, draw_timeline

_STREAMS = 3  # of the test split, drawn as they were scored
_PICTURES = 1.0  # seconds between pictures
_TILES = (
    Tile("detection/lstr/fused/all classes", "mAP", "mAP, all classes", "frames"),
    Tile("detection/lstr/fused/held-out classes", "mAP", "mAP, classes held out", "frames"),
    Tile("gain/lstr/over zero-shot single frame/all classes", "mAP gain", "Above single frames", "frames", True),
    Tile("gain/lstr/over zero-shot mean of 8 frames/all classes", "mAP gain", "Above 8-frame means", "frames", True),
    Tile("detection/lstr/fused/all classes", "mcAP", "Calibrated mAP", "frames"),
)
_TABLES = (
    (
        "The model by every protocol",
        "Mean average precision over classes, in percent, and the calibrated one, for which guessing gives 50. "
        "Protocols score different frames and cannot be compared with each other. Held-out classes were neither "
        "shown nor named in training.",
        lambda p: p.startswith("detection/") and "/fused/" in p,
    ),
    (
        "Against the encoder alone",
        "Zero-shot scores of the same frozen encoder, without training, each in the form that did best on the "
        "validation split; then the gain of the model, with both resampled together.",
        lambda p: "zero-shot" in p,
    ),
    (
        "Branches and fusions",
        "The branches of the model by themselves, and other ways to make one score of them. None was chosen here.",
        lambda p: p.startswith("detection/") and not ("/fused/" in p or "zero-shot" in p),
    ),
)


def page(run: Any, results: Sequence[Result]) -> Page:
    """Lays out the report of a run; its test split is scored for the timelines."""
    scored = open_scored(run, every=False)
    config, train = run.experiment.method, run.experiment.train
    world = config.data.source == "world"
    drawn = f"streams of the embedded workshop, {config.data.world_train} to train"
    long = f"{config.model.long} of memory + " if config.model.long else ""
    facts = {
        "data": drawn if world else config.data.source,
        "trained from": "captions only" if config.data.captions == "sentences" else "class names in templates",
        "window": f"{long}{config.model.past} + {config.model.near} frames at {config.data.fps:g} a second",
        "model": f"{config.model.dntr}, {config.model.unit}, {config.model.groups} to {config.model.out_groups} groups",
        "fusion": config.fusion.mode + (f", encoder {config.fusion.clip:g}" if config.fusion.clip else ""),
        "steps": train.steps,
        "batch": train.batch_size,
        "seed": run.experiment.seed,
    }
    subtitle = "Every frame scored from what came before it; classes are text"
    page = Page("Open-vocabulary online action detection", subtitle, facts).tiles(results, _TILES)
    _timelines(page, scored)
    page.tables(results, _TABLES)
    _per_class(page, scored)
    _stages(page, scored)
    return page.curves(run.work)


def timeline_of(scored: Scored, key: str) -> Timeline:
    """Makes the timeline of one video of a split as it was scored."""
    video = next(v for v in scored.videos if v.key == key)
    names, also = scored.classes.names, scored.also[key]
    times = (np.arange(len(video)) + 0.5) / video.fps
    pictures = []
    if video.frames is not None:
        frames, step = video.frames(), max(1, round(_PICTURES * video.fps))
        pictures = [(float(times[i]), np.asarray(frames[i])) for i in range(0, len(video), step)]
    return Timeline(
        times, names, scored.systems["fused"][key], scored.targets[key].targets, also["binding"],
        [names[c] for c in also["nearest"]], also["actionness"], pictures, held_out=scored.held_out,
    )  # fmt: skip


def picked(scored: Scored, count: int = _STREAMS) -> list[str]:
    """Picks the videos to draw: one with a held-out class, then others evenly spaced, good and bad alike."""
    held = [i for i, n in enumerate(scored.classes.names) if n in scored.held_out]
    keys = [v.key for v in scored.videos]
    first = [k for k in keys if scored.targets[k].targets[:, held].any()][:1]
    spaced = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, count).astype(int))]
    return list(dict.fromkeys([*first, *spaced]))[:count]


def _timelines(page: Page, scored: Scored) -> None:
    keys = picked(scored)
    page.section(
        "Live",
        f"{len(keys)} of {len(scored.videos)} test videos as the model saw them, one frame after another: every score "
        "was made from that frame and those before it.",
    )
    for place, key in enumerate(keys):
        drawn = timeline_of(scored, key)
        page.add("" if place else draw_player(drawn), element("h3", key), draw_timeline(drawn))


def _per_class(page: Page, scored: Scored) -> None:
    rows: list[list[Any]] = []
    for row in scored.detection("fused", resamples=1).per_class():
        held = "held out" if row["class"] in scored.held_out else ""
        figures = [round(float(row[name]), 1) if row["positives"] else "" for name in ("AP", "cAP", "chance")]
        rows.append([row["class"], held, row["positives"], *figures])
    rows.sort(key=lambda r: (r[3] == "", -(r[3] or 0)))
    page.section("Class by class", "By the lstr protocol, in percent; chance is the expected AP of random scores.")
    page.grid(["class", "", "frames", "AP", "cAP", "chance"], rows)


def _stages(page: Page, scored: Scored) -> None:
    values = stage_precision(scored.detection("fused", resamples=1))
    if not np.isfinite(values).any():
        return
    page.section(
        "How early",
        "Calibrated AP of each tenth of the actions, from their beginning to their end, mean over classes, in percent: "
        "how early an action is detected. Guessing gives 50.",
    )
    header = [f"{10 * i}\u2013{10 * (i + 1)} %" for i in range(len(values))]
    page.grid(header, [[round(100 * float(v), 1) if np.isfinite(v) else "" for v in values]])
