"""What the method is measured against: zero-shot scores of the same frozen encoder, without training (paper, table 1).

single frame            CLIP-I, the current frame alone
mean of 8 frames        CLIP-II on the neighbouring frames
mean of the window      CLIP-II as its code has it, on the whole window
clip of the last frames what the encoder makes of a clip of the neighbouring frames, where it was trained on clips
cluster of the frame    CLIP-III: of the window's frames, those that k-means puts together with the current one

Each in several forms, as the choice moves the figure: cosines, cosines less a frame's mean over classes, or
probabilities at the encoder's own scale with or without the background among the classes; of means, embeddings or
probabilities may be averaged. The form is chosen on the validation split, where there is one, in the baseline's favour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import softmax

from vtjax.encoders.clip import Encoder
from vtjax.evals.embed import unit_rows
from vtjax.methods.ovoad.scores import Bank

NEAR = 8
_ROUNDS = 4  # of k-means; windows are small and two clusters settle at once

Form = Callable[[np.ndarray], np.ndarray]


def forms(bank: Bank, classes: int, scale: float) -> dict[str, Form]:
    """Makes the forms: name -> function of cosines [L, C] to scores [L, C]; C classes, the background first."""
    background = np.asarray(bank.background)[:classes]
    return {
        "cosines": lambda rows: rows,
        "centred cosines": lambda rows: rows - rows.mean(axis=-1, keepdims=True),
        "softmax": lambda rows: softmax(scale * rows, axis=-1),
        "softmax over actions": lambda rows: softmax(np.where(background, -np.inf, scale * rows), axis=-1),
    }


def trailing_mean(rows: np.ndarray, count: int) -> np.ndarray:
    """Averages each row and the count - 1 before it, as many as there are: [L, ...] -> the same, float64."""
    sums = np.concatenate([np.zeros((1, *rows.shape[1:])), np.cumsum(rows, axis=0, dtype=np.float64)])
    ends = np.arange(1, len(rows) + 1)
    starts = np.maximum(ends - count, 0)
    return (sums[ends] - sums[starts]) / (ends - starts).reshape(-1, *(1,) * (rows.ndim - 1))


def cluster_mean(embeddings: np.ndarray, window: int) -> np.ndarray:
    """Averages the window's frames in the current frame's cluster, [L, E] -> [L, E].

    Two clusters by cosine, begun from the current frame and the one least like it; frames before the video are left
    out.
    """
    out = np.empty(embeddings.shape, np.float64)
    for row in range(len(embeddings)):
        frames = embeddings[max(row - window + 1, 0) : row + 1].astype(np.float64)
        centre = frames[-1]
        other = frames[np.argmin(frames @ centre)]
        for _ in range(_ROUNDS):
            same = frames @ centre >= frames @ other
            same[-1] = True
            centre = unit_rows(frames[same].mean(axis=0))
            if same.all():
                break
            other = unit_rows(frames[~same].mean(axis=0))
        out[row] = centre
    return out


def trailing_clips(rows: np.ndarray, frames: int) -> np.ndarray:
    """Takes of each row `frames` of the neighbouring ones, evenly apart, itself the last: [L, E] -> [L, frames, E].

    The first is repeated before there are as many.
    """
    back = max(NEAR // frames, 1) * np.arange(frames - 1, -1, -1)
    return rows[np.maximum(np.arange(len(rows))[:, None] - back, 0)]


def zero_shot_scores(
    features: np.ndarray,
    projection: np.ndarray,
    bank: Bank,
    classes: int,
    scale: float,
    window: int,
    encoder: Encoder | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Scores one video by every baseline: baseline -> form -> float [L, C].

    Args:
      features: [L, D].
      projection: [D, E], into the encoder's joint space.
      bank: with the encoder's own embeddings of the classes.
      classes: C, the first of the bank.
      scale: of the encoder's cosines.
      window: frames.
      encoder: with a way of its own to embed clips, or None.
    """
    embeddings = unit_rows(np.asarray(features, np.float32) @ projection)
    texts = np.asarray(bank.clip)[:classes]
    shapes = forms(bank, classes, scale)
    scored = lambda rows: {name: form(unit_rows(rows) @ texts.T) for name, form in shapes.items()}
    systems = {"zero-shot single frame": scored(embeddings)}
    for name, count in ((f"zero-shot mean of {NEAR} frames", NEAR), ("zero-shot mean of the window", window)):
        systems[name] = {f"embeddings, {n}": s for n, s in scored(trailing_mean(embeddings, count)).items()}
        for form in ("softmax", "softmax over actions"):
            probabilities = systems["zero-shot single frame"][form]
            systems[name][f"probabilities, {form}"] = trailing_mean(probabilities, count)
    if encoder is not None and encoder.clip_frames:
        clips = trailing_clips(embeddings.astype(np.float32), encoder.clip_frames)
        systems["zero-shot clip of the last frames"] = scored(encoder.clips(clips))
    systems["zero-shot cluster of the frame"] = scored(cluster_mean(embeddings, window))
    return systems


def best_forms(figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Chooses each baseline's form with the highest figure, the first of equals: baseline -> form."""
    return {name: max(by_form, key=lambda form: by_form[form]) for name, by_form in figures.items()}
