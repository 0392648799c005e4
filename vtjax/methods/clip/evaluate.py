"""Zero-shot classification, order of frames, and retrieval of clips the model has not seen.

Protocols:
  zero-shot/<clips>/all classes       the right class among all
  zero-shot/<clips>/these classes     among those that such clips can show (held-out pairs: the held-out ones)
  zero-shot/<clips>/verbs             the best class's verb
  order/<clips>/classes               the prompt of the true class against that of the clip played backwards
  order/<clips>/captions              the true caption against that of the clip played backwards
  order/<clips>/videos                the clip against itself played backwards
  retrieval/...                       evals/retrieval.py, texts are first captions
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vtjax.encoders.sentence import gold_embeddings
from vtjax.evals import retrieval
from vtjax.evals.classification import group_scores, top_rates, two_way
from vtjax.evals.protocol import Result
from vtjax.methods.clip import data
from vtjax.methods.clip.embed import Embedder, Gallery
from vtjax.text.class_prompts import ClassSet

_DIRECTIONS = ("t2v", "v2t")
_MEANING = 512  # dimensions in which texts that are equal coincide, and others do not


def zero_shot(gallery: Gallery, classes: ClassSet, prompts: np.ndarray) -> list[Result]:
    """Scores zero-shot classification; seen and held-out classes apart where there are both.

    Args:
      gallery: N clips.
      classes: C classes that their labels are of.
      prompts: embeddings of the classes, float32 [C, D].
    """
    labels, results = gallery.labels, []
    for name, chosen in clip_sets(labels, classes):
        table, right = gallery.videos[chosen] @ prompts.T, labels[chosen]
        if name == "all":
            results.append(top_rates(table, right, "zero-shot/all clips/all classes"))
            continue
        results.append(top_rates(table, right, f"zero-shot/{name}/all classes"))
        these = np.flatnonzero(classes.held_out == classes.held_out[right[0]])
        place = np.searchsorted(these, right)
        results.append(top_rates(table[:, these], place, f"zero-shot/{name}/these classes"))
        best, verbs = group_scores(table, classes.groups)
        verb = np.array([verbs.index(classes.groups[i]) for i in right])
        results.append(top_rates(best, verb, f"zero-shot/{name}/verbs"))
    return results


def clip_sets(labels: np.ndarray, classes: ClassSet) -> list[tuple[str, np.ndarray]]:
    """(name, rows) of the clips that are reported together."""
    known = labels >= 0
    if not known.any():
        return []
    if not classes.held_out.any():
        return [("all", np.flatnonzero(known))]
    held_out = known & classes.held_out[labels]
    sets = [("unseen renderings", np.flatnonzero(known & ~held_out)), ("held-out pairs", np.flatnonzero(held_out))]
    return [(name, rows) for name, rows in sets if len(rows)]


def order_results(
    embedder: Embedder, params: dict, gallery: Gallery, classes: ClassSet, prompts: np.ndarray
) -> list[Result]:
    """Scores whether the order of the frames is seen, on clips whose frames in the opposite order show another action;
    arguments as those of `zero_shot`."""
    labels, results = gallery.labels, []
    for name, chosen in clip_sets(labels, classes):
        rows = chosen[classes.backwards[labels[chosen]] >= 0]
        if len(rows):
            videos = gallery.videos[rows]
            true, wrong = (_dots(videos, prompts[c]) for c in (labels[rows], classes.backwards[labels[rows]]))
            results.append(two_way(true, wrong, f"order/{name}/classes"))
        rows = np.array([i for i in chosen if gallery.rows.rows[i].backwards], int)
        if not len(rows):
            continue
        texts = embedder.texts(params, [gallery.rows.rows[i].texts[0] for i in rows])
        turned = embedder.texts(params, [gallery.rows.rows[i].backwards[0] for i in rows])
        true = _dots(gallery.videos[rows], texts)
        results.append(two_way(true, _dots(gallery.videos[rows], turned), f"order/{name}/captions"))
        results.append(two_way(true, _dots(gallery.backwards[rows], texts), f"order/{name}/videos"))
    return results


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=1)


def retrieval_results(embedder: Embedder, params: dict, gallery: Gallery, every_protocol: bool = True) -> list[Result]:
    """Scores text to video and video to text; [] where all texts are one. Equal captions count alike in "threshold"."""
    texts = [row.texts[0] for row in gallery.rows.rows]
    if len(set(texts)) < 2:
        return []
    table = embedder.texts(params, texts) @ gallery.videos.T
    keys = [f"{i:08d}" for i in range(len(texts))]
    if not every_protocol:
        return retrieval.evaluate_all(table, keys, directions=_DIRECTIONS)
    sentence = gold_embeddings(texts, _MEANING) if len(set(texts)) < len(texts) else None
    return retrieval.evaluate_retrieval(table, keys, directions=_DIRECTIONS, sentence=sentence)


def results_of(
    embedder: Embedder,
    params: dict,
    gallery: Gallery,
    classes: ClassSet | None,
    prompts: np.ndarray | None,
    every_protocol: bool = True,
) -> list[Result]:
    """Every protocol of a gallery, or those that are quick; classes and prompts as those of `zero_shot`, or None."""
    results = []
    if classes is not None:
        results += zero_shot(gallery, classes, prompts)
        results += order_results(embedder, params, gallery, classes, prompts)
    results += retrieval_results(embedder, params, gallery, every_protocol)
    if every_protocol and gallery.left_out:
        note = f"{gallery.left_out} clips cannot be read and are left out"
        results = [dataclasses.replace(r, notes=(*r.notes, note)) for r in results]
    return results


def quick_results(embedder: Embedder, rows: data.Rows, classes: ClassSet | None, params: dict) -> list[Result]:
    """While training: zero-shot classification, order and retrieval over the validation clips."""
    prompts = None if classes is None else embedder.classes(params, classes)
    return results_of(embedder, params, embedder.gallery(params, rows), classes, prompts, every_protocol=False)


def evaluate(run: Any, *, split: str = "") -> list[Result]:
    """Scores every protocol on a split of the run's data.

    Args:
      split: default its test split.

    Raises:
      VtjaxError: unknown split, missing data or checkpoint.
    """
    model, params = run.model, run.params
    gallery = model.gallery(params, split)
    return results_of(model.embedder, params, gallery, model.data.classes, model.classes(params))
