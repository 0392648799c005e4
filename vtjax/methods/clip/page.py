"""The report of a run: figures, curves, which classes are confused, its worst mistakes and a few searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.data.video.container import VideoError
from vtjax.evals.protocol import Result
from vtjax.methods.clip.embed import Embedder, Gallery
from vtjax.methods.clip.evaluate import clip_sets
from vtjax.report.markup import Markup, element, image, ranked
from vtjax.report.page import Page, Tile
from vtjax.report.pictures import matrix_png, strip_png
from vtjax.text.class_prompts import ClassSet

_MISTAKES = 5  # of each set of clips
_SEARCHES = 4
_ANSWERS = 3  # of each search
_MOST_CLASSES = 120  # rows and columns of the similarity matrix

_TILES = (
    Tile("zero-shot/held-out pairs/all classes", "top-1", "Held-out pairs, top-1", "clips"),
    Tile("zero-shot/unseen renderings/all classes", "top-1", "Unseen renderings, top-1", "clips"),
    Tile("zero-shot/all clips/all classes", "top-1", "Zero-shot, top-1", "clips"),
    Tile("order/held-out pairs/captions", "accuracy", "Order, held-out pairs", "clips"),
    Tile("retrieval/batches of 32/t2v", "R@1", "Text to video, R@1 of 32", "clips"),
    Tile("retrieval/all/t2v", "R@10", "Text to video, R@10", "clips"),
)
_SECTIONS = (
    (
        "Zero-shot classification",
        "The class whose prompts are nearest, in percent; below each figure its 95 % interval and what guessing gives. "
        "No clip was seen in training; of held-out pairs not even the pair of verb and object was.",
        lambda protocol: protocol.startswith("zero-shot/"),
    ),
    (
        "Order of frames",
        "Clips whose frames in the opposite order show another action: is the true one scored higher? "
        "Without seeing order, half of the answers are right.",
        lambda protocol: protocol.startswith("order/"),
    ),
    (
        "Retrieval",
        "In percent, and the median rank counted from 1.",
        lambda protocol: protocol.startswith("retrieval/"),
    ),
)


def page(run: Any, results: Sequence[Result]) -> Page:
    """The report of a run: headline figures, tables, curves, confusion, mistakes and searches."""
    config, train, model = run.experiment.method, run.experiment.train, run.model
    gallery, classes = model.gallery(run.params), model.data.classes
    world = f"the embedded workshop world, {config.data.world_train} training clips"
    facts = {
        "data": world if config.data.source == "world" else config.data.source,
        "fingerprint": model.data.fingerprint[:16],
        "frames": f"{config.model.frames} of {model.embedder.image.size} pixels",
        "over time": config.model.temporal,
        "loss": config.loss.name + (", backward clips as negatives" if config.loss.backwards else ""),
        "weights from": config.model.pretrained or "random",
        "steps": train.steps,
        "batch": train.batch_size,
        "seed": run.experiment.seed,
    }
    report = Page("Contrastive video-text pretraining", "Clips and sentences in one space", facts)
    report.tiles(results, _TILES).tables(results, _SECTIONS).curves(run.work)
    if classes is not None and (gallery.labels >= 0).any():
        table = gallery.videos @ model.classes(run.params).T
        _matrix(report, table, gallery.labels, classes)
        _mistakes(report, model.embedder, table, gallery, classes)
    _searches(report, model.embedder, run.params, gallery)
    return report


def similarity_matrix(table: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages cosines [N, C] of clips over those of one class, labels int [N].

    Returns:
      (mean cosine [R, C], the R classes that have clips).
    """
    shown = np.unique(labels[labels >= 0])
    return np.stack([table[labels == c].mean(axis=0) for c in shown]), shown


def _matrix(report: Page, table: np.ndarray, labels: np.ndarray, classes: ClassSet) -> None:
    means, shown = similarity_matrix(table, labels)
    groups = list(dict.fromkeys(classes.groups))
    by_group = lambda numbers: np.argsort([groups.index(classes.groups[c]) for c in numbers], kind="stable")
    order = by_group(shown)[:_MOST_CLASSES]
    means, shown = means[order], shown[order]
    columns = by_group(range(len(classes)))
    columns = columns[np.isin(columns, shown)] if len(classes) > _MOST_CLASSES else columns
    held_out = {name for name, held in zip(classes.names, classes.held_out, strict=True) if held}
    lead = (
        "Mean cosine of a class's clips (row) with the prompts of every class (column), each row from its lowest to "
        "its highest value. A bright diagonal is what should be seen; other bright cells are classes mistaken for it."
    )
    lead += " Held-out pairs are written in red." if held_out else ""
    picture = matrix_png(
        means[:, columns],
        *([classes.names[c] for c in numbers] for numbers in (shown, columns)),
        groups=([classes.groups[c] for c in shown], [classes.groups[c] for c in columns]),
        marked=held_out.__contains__,
    )
    report.section("Which classes are confused", lead).figure(picture, "", "class by class similarity")


def _mistakes(report: Page, embedder: Embedder, table: np.ndarray, gallery: Gallery, classes: ClassSet) -> None:
    """Clips whose wrong answer was surest: the true class lies furthest below the best. table: cosines [N, C]."""
    labels = gallery.labels
    lead = "The clips whose true class lies furthest below the chosen one; time runs to the right."
    report.section("Worst mistakes", lead)
    for name, rows in clip_sets(labels, classes):
        true = table[rows, labels[rows]]
        margin = true - table[rows].max(axis=1)
        worst = [i for i in np.argsort(margin, kind="stable")[:_MISTAKES] if margin[i] < 0]
        title = f"{name}: {np.mean(margin < 0):.0%} of {len(rows):,} clips are mistaken"
        report.add(element("h3", title[0].upper() + title[1:]))
        for i in worst:
            row, best = rows[i], int(table[rows[i]].argmax())
            lines = [
                element("p", f"taken for {classes.names[best]}", cls="query"),
                element("p", f"is {classes.names[labels[row]]} \u2014 {gallery.rows.rows[row].texts[0]}"),
                element("p", f"cosines {table[row, best]:.3f} and {true[i]:.3f}", cls="legend"),
            ]
            report.add(element("div", strip(embedder, gallery.rows[row]), *lines, cls="card"))


def _searches(report: Page, embedder: Embedder, params: dict, gallery: Gallery) -> None:
    """Sentences over all clips: the first captions of clips evenly spaced over the split, good and bad alike."""
    rows = gallery.rows.rows
    picks = np.unique(np.linspace(0, len(rows) - 1, _SEARCHES).astype(int))
    table = embedder.texts(params, [rows[i].texts[0] for i in picks]) @ gallery.videos.T
    lead = f"Captions of {len(picks)} clips, and the {_ANSWERS} nearest of all {len(rows):,} clips."
    report.section("Searches", lead)
    for place, similarities in zip(picks, table, strict=True):
        parts = [element("p", rows[place].texts[0], cls="query")]
        for rank, clip in enumerate(np.argsort(-similarities, kind="stable")[:_ANSWERS], 1):
            same = rows[clip].texts[0] == rows[place].texts[0]
            tag = element("span", "the clip itself" if clip == place else "same caption", cls="tag")
            head = [element("span", rows[clip].texts[0], cls="words"), tag if same else ""]
            parts.append(ranked(rank, float(similarities[clip]), head, strip(embedder, gallery.rows[clip])))
        report.add(element("div", *parts, cls="card"))


def strip(embedder: Embedder, handle: Any) -> Markup:
    """The frames that the model sees of a clip, side by side, as a picture."""
    try:
        frames, mask = embedder.frames(handle)
    except VideoError as error:
        return element("p", str(error), cls="bad")
    return element("figure", image(strip_png(frames[mask]), "frames of the clip"))
