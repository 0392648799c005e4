"""The report of a run, and of one source that was streamed: figures, per-class precision, and the live timeline."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.errors import Problems
from vtjax.evals.frame_detection import stage_precision
from vtjax.evals.protocol import Result
from vtjax.methods.ovoad.evaluate import Scored, open_scored
from vtjax.methods.ovoad.predict import Recording, segments
from vtjax.report.curves import draw_curves, read_metrics
from vtjax.report.markup import element
from vtjax.report.page import Page
from vtjax.report.player import draw_player
from vtjax.report.tables import results_table
from vtjax.report.timeline import Timeline, draw_timeline

_STREAMS = 3  # of the test split, drawn as they were scored
_LISTED = 40  # segments in the table of a recording
_PICTURES = 1.0  # seconds between pictures


def training_report(run: Any, results: list[Result]) -> pathlib.Path:
    """Writes report.html into the run's work directory and returns its path."""
    scorer, scored = open_scored(run, every=False)
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
    page = Page("Open-vocabulary online action detection", subtitle, facts)
    page.headline(headline(results))
    _timelines(page, scored)
    _figures(page, results)
    _per_class(page, scored)
    _stages(page, scored)
    _curves(page, run.work)
    return page.save(run.work / "report.html")


_TILES = (
    ("detection/lstr/fused/all classes", "mAP", "mAP, all classes"),
    ("detection/lstr/fused/held-out classes", "mAP", "mAP, classes held out"),
    ("gain/lstr/over zero-shot single frame/all classes", "mAP gain", "Above single frames"),
    ("gain/lstr/over zero-shot mean of 8 frames/all classes", "mAP gain", "Above 8-frame means"),
    ("detection/lstr/fused/all classes", "mcAP", "Calibrated mAP"),
)


def headline(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """Tiles of Page.headline for the results that are there, four at most."""
    by_name, tiles = {r.protocol: r for r in results}, []
    for protocol, metric, label in _TILES:
        if protocol in by_name:
            r = by_name[protocol]
            low, high = r.interval[metric]
            gained = metric.endswith("gain")
            value = f"{r.metrics[metric]:+.1f}" if gained else f"{r.metrics[metric]:.1f} %"
            chance = "points of mAP" if gained else f"chance {r.chance[metric]:.3g} %"
            tiles.append((label, value, f"95 %: {low:.1f} to {high:.1f}\n{chance}\n{r.items:,} frames"))
    return tiles[:4]


def _figures(page: Page, results: Sequence[Result]) -> None:
    sections = (
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
    for title, lead, belongs in sections:
        chosen = [r for r in results if belongs(r.protocol)]
        if chosen:
            page.section(title, lead).add(results_table(chosen))


def timeline_of(scored: Scored, key: str) -> Timeline:
    """One video of a split as it was scored."""
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
    """Videos to draw: first one with a held-out class, then others evenly spaced over the split, good and bad alike."""
    held = [i for i, n in enumerate(scored.classes.names) if n in scored.held_out]
    keys = [v.key for v in scored.videos]
    first = [k for k in keys if scored.targets[k].targets[:, held].any()][:1]
    spaced = [keys[i] for i in np.unique(np.linspace(0, len(keys) - 1, count).astype(int))]
    return list(dict.fromkeys([*first, *spaced]))[:count]


def _timelines(page: Page, scored: Scored) -> None:
    keys = picked(scored)
    lead = (
        f"{len(keys)} of {len(scored.videos)} test videos as the model saw them, one frame after another: every score "
        "was made from that frame and those before it."
    )
    page.section("Live", lead)
    for place, key in enumerate(keys):
        drawn = timeline_of(scored, key)
        if not place:
            page.add(draw_player(drawn))
        page.add(element("h3", key), draw_timeline(drawn))


def _per_class(page: Page, scored: Scored) -> None:
    rows = []
    for row in scored.detection("fused", resamples=1).per_class():
        held = "held out" if row["class"] in scored.held_out else ""
        figures = (row["AP"], row["cAP"], row["chance"]) if row["positives"] else ("", "", "")
        rows.append([row["class"], held, row["positives"], *(round(f, 1) if f != "" else "" for f in figures)])
    rows.sort(key=lambda r: (r[3] == "", -(r[3] or 0)))
    lead = "By the lstr protocol, in percent; chance is the expected AP of random scores."
    page.section("Class by class", lead)
    page.grid(["class", "", "frames", "AP", "cAP", "chance"], rows)


def _stages(page: Page, scored: Scored) -> None:
    values = stage_precision(scored.detection("fused", resamples=1))
    if not np.isfinite(values).any():
        return
    lead = (
        "Calibrated AP of each tenth of the actions, from their beginning to their end, mean over classes, in percent: "
        "how early an action is told. Guessing gives 50."
    )
    page.section("How early", lead)
    header = [f"{10 * i}\u2013{10 * (i + 1)} %" for i in range(len(values))]
    page.grid(header, [[round(100 * float(v), 1) if np.isfinite(v) else "" for v in values]])


def _curves(page: Page, work: pathlib.Path) -> None:
    problems = Problems()
    for file in sorted(work.rglob("metrics.jsonl")):
        drawing, left_out = draw_curves(read_metrics(file, problems))
        if drawing:
            title = f"Training: {file.parent.relative_to(work)}"
            page.section(title, "By step. Training figures are faint as measured and bold as a running mean.")
            page.figure(drawing, f"Not drawn: {', '.join(left_out)}." if left_out else "", "curves by step")
    if len(problems):
        page.text(problems.report(), cls="legend")


def recording_report(found: Recording, path: os.PathLike | str, model: str = "") -> pathlib.Path:
    """Writes the page of one streamed source and returns its path."""
    names = found.classes
    times = found.times
    facts = {
        "source": found.source,
        "length": f"{times[-1] - times[0]:.1f} s, {len(times)} steps",
        "classes": len(names) - 1,
    }
    if model:
        facts["model"] = model
    page = Page(pathlib.Path(found.source).name or found.source, "Scores as the frames came", facts)
    for note in found.notes:
        page.text(note, cls="bad")
    own = [s.mapping[s.binding] for s in found.steps]
    page.section("Timeline", "Every score was made from its frame and those before it.")
    parts = _without_gaps(times)
    for rows in parts:
        first, last = rows[0], rows[-1] + 1
        shown = [(t, p) for t, p in found.pictures if times[first] <= t <= times[last - 1]]
        drawn = Timeline(
            times[first:last], names, found.scores[first:last], None,
            np.array([s.binding for s in found.steps[first:last]]),
            [names[int(row.argmax())] for row in own[first:last]],
            np.array([s.actionness for s in found.steps[first:last]]), shown,
        )  # fmt: skip
        page.add(draw_player(drawn) if len(parts) == 1 else "", draw_timeline(drawn))
    stretches = segments(names, times, found.scores)
    page.section("What scored highest", "Stretches in which one class had the highest score.")
    rows = [[p.name, f"{p.start:.2f}\u2013{p.end:.2f} s", round(p.score, 4)] for p in stretches[:_LISTED]]
    page.grid(["class", "when", "mean score"], rows)
    if len(stretches) > _LISTED:
        page.text(f"{len(stretches) - _LISTED} further stretches are in the .json file.", cls="legend")
    return page.save(path)


def _without_gaps(times: np.ndarray) -> list[np.ndarray]:
    """Rows between gaps in the times, which are drawn apart."""
    if len(times) < 2:
        return [np.arange(len(times))]
    step = float(np.median(np.diff(times)))
    cuts = np.flatnonzero(np.diff(times) > 2.5 * step) + 1
    return [rows for rows in np.split(np.arange(len(times)), cuts) if len(rows)]
