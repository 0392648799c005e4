"""The report of a run: figures, curves, what the model takes for what, its worst mistakes and a few searches."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.data.video.container import VideoError
from vtjax.errors import Problems
from vtjax.evals.protocol import Result
from vtjax.methods.clip.embed import Embedder
from vtjax.methods.clip.evaluate import Scores, clip_sets, open_scores
from vtjax.report.curves import draw_curves, read_metrics
from vtjax.report.markup import Markup, element, image
from vtjax.report.page import Page
from vtjax.text.class_prompts import ClassSet

_MISTAKES = 5  # of each set of clips
_SEARCHES = 4
_FOUND = 3
_MOST_CLASSES = 120  # rows and columns of the similarity matrix


def training_report(run: Any, results: list[Result]) -> pathlib.Path:
    """Writes report.html into the run's work directory and returns its path."""
    embedder, scores, videos = open_scores(run)
    config, train = run.experiment.method, run.experiment.train
    world = config.data.source == "world"
    source = f"the embedded workshop world, {config.data.world_train} training clips" if world else config.data.source
    facts = {
        "data": source,
        "fingerprint": videos.fingerprint[:16],
        "frames": f"{config.model.frames} of {embedder.sizes.vision.image_size} pixels",
        "over time": config.model.temporal,
        "loss": config.loss.name + (", backward clips as negatives" if config.loss.backwards else ""),
        "weights from": config.model.pretrained or "random",
        "steps": train.steps,
        "batch": train.batch_size,
        "seed": run.experiment.seed,
    }
    page = Page("Contrastive video-text pretraining", "Clips and sentences in one space", facts)
    page.headline(headline(results))
    for title, lead, prefix in _SECTIONS:
        chosen = [r for r in results if r.protocol.startswith(prefix)]
        if chosen:
            page.section(title, lead).table(chosen)
    _curves(page, run.work)
    if videos.classes is not None and (scores.labels >= 0).any():
        _matrix(page, scores, videos.classes)
        _mistakes(page, embedder, scores, videos.classes)
    _searches(page, embedder, run.params, scores)
    return page.save(run.work / "report.html")


_SECTIONS = (
    (
        "Zero-shot classification",
        "The class whose prompts are nearest, in percent; below each figure its 95 % interval and what guessing gives. "
        "No clip was seen in training; of held-out pairs not even the pair of verb and object was.",
        "zero-shot/",
    ),
    (
        "Order of frames",
        "Clips whose frames in the opposite order show another action: is the true one scored higher? "
        "Without seeing order, half of the answers are right.",
        "order/",
    ),
    ("Retrieval", "In percent, and the median rank counted from 1.", "retrieval/"),
)
_TILES = (
    ("zero-shot/held-out pairs/all classes", "top-1", "Held-out pairs, top-1"),
    ("zero-shot/unseen renderings/all classes", "top-1", "Unseen renderings, top-1"),
    ("zero-shot/all clips/all classes", "top-1", "Zero-shot, top-1"),
    ("order/held-out pairs/captions", "accuracy", "Order, held-out pairs"),
    ("retrieval/batches of 32/t2v", "R@1", "Text to video, R@1 of 32"),
    ("retrieval/all/t2v", "R@10", "Text to video, R@10"),
)


def headline(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """Tiles of Page.headline for the results that are there, four at most."""
    by_name = {r.protocol: r for r in results}
    tiles = []
    for protocol, metric, label in _TILES:
        if protocol in by_name:
            r = by_name[protocol]
            low, high = r.interval[metric]
            chance = f"chance {r.chance[metric]:.3g} %"
            detail = f"95 %: {low:.1f}\u2013{high:.1f}\n{chance}\n{r.items:,} clips"
            tiles.append((label, f"{r.metrics[metric]:.1f} %", detail))
    return tiles[:4]


def _curves(page: Page, work: pathlib.Path) -> None:
    problems = Problems()
    for file in sorted(work.rglob("metrics.jsonl")):
        drawing, left_out = draw_curves(read_metrics(file, problems))
        if drawing:
            page.section("Training", "By step. Training figures are faint as measured and bold as a running mean.")
            page.figure(drawing, f"Not drawn: {', '.join(left_out)}." if left_out else "", "curves by step")
    if len(problems):
        page.text(problems.report(), cls="legend")


def similarity_matrix(scores: Scores, classes: ClassSet) -> tuple[np.ndarray, np.ndarray]:
    """(mean cosine [R, C] of each class's clips with every class's prompts, the R classes that have clips)."""
    labels = scores.labels
    shown = np.unique(labels[labels >= 0])
    table = scores.videos @ scores.classes.T
    return np.stack([table[labels == c].mean(axis=0) for c in shown]), shown


def _matrix(page: Page, scores: Scores, classes: ClassSet) -> None:
    table, shown = similarity_matrix(scores, classes)
    order = np.argsort([list(dict.fromkeys(classes.groups)).index(classes.groups[c]) for c in shown], kind="stable")
    table, shown = table[order][:_MOST_CLASSES], shown[order][:_MOST_CLASSES]
    columns = np.argsort([list(dict.fromkeys(classes.groups)).index(g) for g in classes.groups], kind="stable")
    columns = columns[np.isin(columns, shown)] if len(classes) > _MOST_CLASSES else columns
    lead = (
        "Mean cosine of a class's clips (row) with the prompts of every class (column), each row from its lowest to "
        "its highest value. A bright diagonal is what should be seen; other bright cells are classes taken for it."
    )
    lead += " Held-out pairs are written in red." if classes.held_out.any() else ""
    page.section("What is taken for what", lead)
    page.figure(_draw_matrix(table[:, columns], shown, columns, classes), "", "class by class similarity")


def _draw_matrix(table: np.ndarray, rows: np.ndarray, columns: np.ndarray, classes: ClassSet) -> bytes:
    """PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    span = np.ptp(table, axis=1, keepdims=True)
    shade = (table - table.min(axis=1, keepdims=True)) / np.where(span > 0, span, 1)
    side = float(np.clip(0.13 * len(rows) + 2.5, 5, 16))
    figure = Figure(figsize=(side + 1.5, side), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(shade, cmap="magma", aspect="auto", interpolation="nearest")
    for numbers, line in ((rows, axes.axhline), (columns, axes.axvline)):  # between groups, the verbs
        groups = [classes.groups[c] for c in numbers]
        for place in (i for i in range(1, len(groups)) if groups[i] != groups[i - 1]):
            line(place - 0.5, color="white", linewidth=0.6)
    size = float(np.clip(500 / max(len(rows), 1), 4.5, 9))
    for axis, numbers in ((axes.yaxis, rows), (axes.xaxis, columns)):
        axis.set_ticks(range(len(numbers)), [classes.names[c] for c in numbers], fontsize=size)
        for label, number in zip(axis.get_ticklabels(), numbers, strict=True):
            label.set_color("#b4443c" if classes.held_out[number] else "#4a5260")
    axes.tick_params(axis="x", rotation=90, length=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    return out.getvalue()


def _mistakes(page: Page, embedder: Embedder, scores: Scores, classes: ClassSet) -> None:
    """Clips whose wrong answer was surest: the true class lies furthest below the best."""
    labels, table = scores.labels, scores.videos @ scores.classes.T
    lead = "The clips whose true class lies furthest below the chosen one; time runs to the right."
    page.section("Worst mistakes", lead)
    for name, rows in clip_sets(labels, classes):
        true = table[rows, labels[rows]]
        margin = true - table[rows].max(axis=1)
        worst = [i for i in np.argsort(margin, kind="stable")[:_MISTAKES] if margin[i] < 0]
        title = f"{name}: {np.mean(margin < 0):.0%} of {len(rows):,} clips are mistaken"
        page.add(element("h3", title[0].upper() + title[1:]))
        for i in worst:
            row, best = rows[i], int(table[rows[i]].argmax())
            lines = [
                element("p", f"taken for {classes.names[best]}", cls="query"),
                element("p", f"is {classes.names[labels[row]]} \u2014 {scores.rows.rows[row].texts[0]}"),
                element("p", f"cosines {table[row, best]:.3f} and {true[i]:.3f}", cls="legend"),
            ]
            page.add(element("div", strip(embedder, scores.rows[row]), *lines, cls="card"))


def _searches(page: Page, embedder: Embedder, params: dict, scores: Scores) -> None:
    """Sentences over all clips: the first captions of clips evenly spaced over the split, good and bad alike."""
    rows = scores.rows.rows
    picks = np.unique(np.linspace(0, len(rows) - 1, _SEARCHES).astype(int))
    table = embedder.texts(params, [rows[i].texts[0] for i in picks]) @ scores.videos.T
    page.section("Searches", f"Captions of {len(picks)} clips, and the {_FOUND} nearest of all {len(rows):,} clips.")
    for place, similarities in zip(picks, table, strict=True):
        parts = [element("p", rows[place].texts[0], cls="query")]
        for rank, found in enumerate(np.argsort(-similarities, kind="stable")[:_FOUND], 1):
            same = rows[found].texts[0] == rows[place].texts[0]
            tag = element("span", "the clip itself" if found == place else "same caption", cls="tag")
            words = element("span", rows[found].texts[0], cls="words")
            head = [words, tag if same else ""]
            parts.append(ranked(rank, float(similarities[found]), head, embedder, scores.rows[found]))
        page.add(element("div", *parts, cls="card"))


def ranked(place: int, cosine: float, head: Sequence[Markup | str], embedder: Embedder, handle: Any) -> Markup:
    """One numbered answer with its score and, where `handle` is not None, its frames."""
    width = f"width:{100 * min(1.0, max(0.0, cosine)):.0f}%"
    bar = element("span", element("i", element("b", style=width)), f"{cosine:.3f}", cls="score", title="cosine")
    body = [element("div", *head, bar, cls="head")]
    if handle is not None:
        body.append(strip(embedder, handle))
    return element("div", element("div", place, cls="place"), element("div", *body), cls="rank")


def strip(embedder: Embedder, handle: Any, height: int = 96) -> Markup:
    """The frames that the model sees of a clip, side by side, as a picture."""
    try:
        frames, mask = embedder.frames(handle)
    except VideoError as error:
        return element("p", str(error), cls="bad")
    return element("figure", image(strip_png(frames[mask], height), "frames of the clip"))


def strip_png(frames: np.ndarray, height: int = 96, gap: int = 3) -> bytes:
    """PNG of frames uint8 [T, H, W, 3] side by side on white, `height` pixels high."""
    from PIL import Image

    wide = []
    for frame in frames:
        width = max(1, round(height * frame.shape[1] / frame.shape[0]))
        resized = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
        wide += [resized, np.full((height, gap, 3), 255, np.uint8)]
    out = io.BytesIO()
    Image.fromarray(np.concatenate(wide[:-1], axis=1)).save(out, "png", optimize=True)
    return out.getvalue()


