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
from vtjax.methods.clip.embed import Embedder, open_embedder
from vtjax.text.class_prompts import ClassSet
from vtjax.worlds.drawn import cache_folder

_DIRECTIONS = ("t2v", "v2t")
_MEANING = 512  # dimensions in which texts that are equal coincide, and others do not


@dataclasses.dataclass
class Scores:
    """Clips of a split and what the model made of them; unit embeddings float32.

    videos, backwards: [N, D], shown forwards and backwards. classes: [C, D], None without labels. unread: clips of the
    split that cannot be read and are left out.
    """

    rows: data.Rows
    videos: np.ndarray
    backwards: np.ndarray
    classes: np.ndarray | None
    unread: int = 0

    @property
    def labels(self) -> np.ndarray:
        """int [N], -1 for clips without."""
        return np.array([row.label for row in self.rows.rows])


def score(embedder: Embedder, params: dict, rows: data.Rows, classes: ClassSet | None) -> Scores:
    """Embeds a split and the classes.

    Raises:
      VtjaxError: no video of the split can be read.
    """
    videos, backwards, kept = embedder.videos(params, rows, rows.report)
    left = data.Rows(rows.source, [rows.rows[i] for i in kept], rows.log)
    table = None if classes is None else embedder.classes(params, classes)
    return Scores(left, videos, backwards, table, len(rows) - len(kept))


def zero_shot(scores: Scores, classes: ClassSet) -> list[Result]:
    """Every protocol of zero-shot classification; seen and held-out classes apart where there are both."""
    labels = scores.labels
    results = []
    for name, chosen in clip_sets(labels, classes):
        table, right = scores.videos[chosen] @ scores.classes.T, labels[chosen]
        if name == "all":
            results.append(top_rates(table, right, "zero-shot/all clips/all classes"))
            continue
        results.append(top_rates(table, right, f"zero-shot/{name}/all classes"))
        these = np.flatnonzero(classes.held_out == classes.held_out[right[0]])
        place = np.searchsorted(these, right)
        results.append(top_rates(table[:, these], place, f"zero-shot/{name}/these classes"))
        best, verbs = group_scores(table, classes.groups)
        own = np.array([verbs.index(classes.groups[i]) for i in right])
        results.append(top_rates(best, own, f"zero-shot/{name}/verbs"))
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


def order_results(embedder: Embedder, params: dict, scores: Scores, classes: ClassSet) -> list[Result]:
    """Whether the order of the frames is seen, on clips whose frames in the opposite order show another action."""
    labels, results = scores.labels, []
    for name, chosen in clip_sets(labels, classes):
        turned = classes.backwards[labels[chosen]]
        rows = chosen[turned >= 0]
        if len(rows):
            own, other = scores.classes[labels[rows]], scores.classes[classes.backwards[labels[rows]]]
            videos = scores.videos[rows]
            results.append(two_way(_dots(videos, own), _dots(videos, other), f"order/{name}/classes"))
        rows = np.array([i for i in chosen if scores.rows.rows[i].backwards], int)
        if not len(rows):
            continue
        picked = [scores.rows.rows[i] for i in rows]
        true = embedder.texts(params, [row.texts[0] for row in picked])
        wrong = embedder.texts(params, [row.backwards[0] for row in picked])
        videos, turned = scores.videos[rows], scores.backwards[rows]
        results.append(two_way(_dots(videos, true), _dots(videos, wrong), f"order/{name}/captions"))
        results.append(two_way(_dots(videos, true), _dots(turned, true), f"order/{name}/videos"))
    return results


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=1)


def retrieval_results(embedder: Embedder, params: dict, scores: Scores, every_protocol: bool = True) -> list[Result]:
    """Text to video and video to text; [] where all texts are one. Equal captions count alike in "threshold"."""
    texts = [row.texts[0] for row in scores.rows.rows]
    if len(set(texts)) < 2:
        return []
    table = embedder.texts(params, texts) @ scores.videos.T
    keys = [f"{i:08d}" for i in range(len(texts))]
    sentence = gold_embeddings(texts, _MEANING) if every_protocol and len(set(texts)) < len(texts) else None
    if every_protocol:
        return retrieval.evaluate_retrieval(table, keys, directions=_DIRECTIONS, sentence=sentence)
    return retrieval.evaluate_all(table, keys, directions=_DIRECTIONS)


def quick_results(embedder: Embedder, rows: data.Rows, classes: ClassSet | None, params: dict) -> list[Result]:
    """While training: zero-shot classification and retrieval over the validation clips."""
    scores = score(embedder, params, rows, classes)
    results = [] if classes is None else zero_shot(scores, classes) + order_results(embedder, params, scores, classes)
    return results + retrieval_results(embedder, params, scores, every_protocol=False)


def full_results(embedder: Embedder, params: dict, scores: Scores, classes: ClassSet | None) -> list[Result]:
    """Every protocol."""
    results = [] if classes is None else zero_shot(scores, classes) + order_results(embedder, params, scores, classes)
    results += retrieval_results(embedder, params, scores)
    if scores.unread:
        note = f"{scores.unread} clips cannot be read and are left out"
        results = [dataclasses.replace(r, notes=(*r.notes, note)) for r in results]
    return results


def open_scores(run: Any, split: str = "", limit: int = 0) -> tuple[Embedder, Scores, data.Videos]:
    """A run's embedder, a split of its data (default: its test split) and what the model makes of it."""
    config = run.experiment.method
    embedder = open_embedder(config, run.work / "assets")
    cache = cache_folder(run.experiment, run.work)
    videos = data.open_videos(config, embedder.sizes.vision.image_size, cache)
    rows = videos.rows(split or config.data.test_split, limit)
    return embedder, score(embedder, run.params, rows, videos.classes), videos


def evaluate(run: Any, split: str = "") -> list[Result]:
    """Every protocol on a split of the run's data (default: its test split).

    Raises:
      VtjaxError: unknown split, missing data or checkpoint.
    """
    embedder, scores, videos = open_scores(run, split)
    return full_results(embedder, run.params, scores, videos.classes)
