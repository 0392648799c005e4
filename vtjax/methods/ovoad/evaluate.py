"""Evaluation by named protocol (vtjax/evals/frame_protocols.py): the model, its branches and fusions, and baselines.

  detection/<protocol>/fused/<classes>               the model, by every protocol
  detection/lstr/clustering alone, current frame alone, encoder alone      its branches
  detection/lstr/fusion <mode>[ with encoder][, masked]                    other ways to fuse them
  detection/lstr/zero-shot ...                       baselines.py
  gain/lstr/over zero-shot ...                       the model minus a baseline, resampled together

<classes>: all, and where classes are held out of training, seen and held-out ones apart.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.errors import MissingSplit, VtjaxError
from vtjax.evals import frame_detection
from vtjax.evals.frame_detection import Detection, NoClassShown, class_groups, detect, grouped_results
from vtjax.evals.frame_protocols import PROTOCOLS, NoFrameScored
from vtjax.evals.frame_targets import FrameTargets
from vtjax.evals.protocol import Result
from vtjax.methods.ovoad import baselines, data, scores
from vtjax.methods.ovoad.classes import ClassSet
from vtjax.methods.ovoad.config import OvoadFusionConfig, span_of
from vtjax.methods.ovoad.embed import Scorer
from vtjax.methods.ovoad.scores import Bank

HEADLINE = "lstr"
_QUICK = 100  # resamples while training


@dataclasses.dataclass
class Scored:
    """Videos of a split and every system's scores of them.

    Attributes:
      targets: by video.
      systems: name -> video -> float [L, C].
      also: video -> per-frame extras of the model: actionness [L], binding [L], and nearest [L], the class of the
        frame's group.
    """

    videos: list[data.FeatureVideo]
    classes: ClassSet
    targets: dict[str, FrameTargets]
    systems: dict[str, dict[str, np.ndarray]]
    also: dict[str, dict[str, np.ndarray]]

    def detection(self, system: str, protocol: str = HEADLINE, resamples: int = 400) -> Detection:
        """Scores one system by one protocol."""
        return detect(self.systems[system], self.targets, protocol, self.classes.names, resamples=resamples)

    @property
    def held_out(self) -> list[str]:
        """Names of the classes that training never shows."""
        return [n for n, h in zip(self.classes.names, self.classes.held_out, strict=True) if h]


def frame_targets(videos: Sequence[data.FeatureVideo], classes: ClassSet) -> dict[str, FrameTargets]:
    """Targets by video, in the columns of the classes."""
    return {v.key: FrameTargets(v.targets(len(classes)), classes.names, v.fps) for v in videos}


def fusions(scorer: Scorer) -> dict[str, OvoadFusionConfig]:
    """Other fusions than the configured one, by name."""
    configured, others = scorer.config.fusion, {}
    for mode in ("paper", "code_mean", "calibrated"):
        for clip in (0.0, 1.0) if scorer.encoder is not None else (0.0,):
            name = f"fusion {mode}" + (" with encoder" if clip else "")
            others[name] = dataclasses.replace(
                configured, mode=mode, group=1.0, current=1.0, clip=clip, background="none"
            )
    others[f"fusion {configured.mode}, masked"] = dataclasses.replace(configured, background="mask")
    return others


@functools.lru_cache(maxsize=4)
def _compiled(scorer: Scorer, every: bool) -> Callable:
    """One pass of the model, all fusions from it."""
    others, objective = fusions(scorer) if every else {}, scorer.objective

    def function(given: tuple[dict, Bank], batch: tuple[jax.Array, jax.Array]):
        (params, bank), (features, valid) = given, batch
        encoded = objective.encode_window(params, features, valid)
        clip = scorer.encoder_scores(features, valid, bank)
        answer = scores.frame_scores(objective, params, encoded, bank, clip)
        systems = {"fused": answer.fused, "clustering alone": answer.group, "current frame alone": answer.current}
        if answer.clip is not None:
            systems["encoder alone"] = answer.clip
        for name, fusion in others.items():
            systems[name] = scores.frame_scores(objective, params, encoded, bank, answer.clip, fusion).fused
        bound = answer.binding[:, -1]
        also = {
            "actionness": answer.actionness[:, -1],
            "binding": bound,
            "nearest": jnp.take_along_axis(answer.mapping.argmax(axis=-1), bound[:, None], axis=1)[:, 0],
        }
        return systems, also

    return jax.jit(function)


def score_videos(
    scorer: Scorer,
    params: dict,
    videos: Sequence[data.FeatureVideo],
    classes: ClassSet,
    every: bool = True,
    targets: dict[str, FrameTargets] | None = None,
) -> Scored:
    """Scores every frame of every video by the model and, with `every`, by its branches' other fusions.

    Args:
      targets: by video, where they are not the videos' own parts.

    Raises:
      VtjaxError: no video.
    """
    if not videos:
        raise VtjaxError("there is no video to evaluate on")
    bank, keys = scorer.bank(params, classes), [v.key for v in videos]
    ends = np.cumsum([len(v) for v in videos])[:-1]
    tables = scorer.over_windows(_compiled(scorer, every), params, bank, [v.features for v in videos])
    systems, columns = (
        {name: dict(zip(keys, np.split(rows, ends), strict=True)) for name, rows in part.items()} for part in tables
    )
    extras = {key: {name: by_video[key] for name, by_video in columns.items()} for key in keys}
    targets = frame_targets(videos, classes) if targets is None else targets
    return Scored(list(videos), classes, targets, systems, extras)


def zero_shot_systems(
    scorer: Scorer, params: dict, videos: Sequence[data.FeatureVideo], classes: ClassSet
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Scores the baselines: baseline -> form -> video -> scores; {} where there is no encoder."""
    if scorer.encoder is None:
        return {}
    bank, encoder = scorer.bank(params, classes), scorer.encoder
    systems: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for video in videos:
        scored = baselines.zero_shot_scores(
            video.features, encoder.projection, bank, len(classes), encoder.scale, span_of(scorer.config.model),
            encoder.encoder,
        )  # fmt: skip
        for name, by_form in scored.items():
            for form, table in by_form.items():
                systems.setdefault(name, {}).setdefault(form, {})[video.key] = table
    return systems


def choose_forms(
    scorer: Scorer, params: dict, videos: Sequence[data.FeatureVideo], classes: ClassSet
) -> dict[str, str]:
    """Chooses each baseline's form, the one with the highest mAP on these videos: baseline -> form.

    Raises:
      NoClassShown: none of their frames shows a class.
    """
    targets = frame_targets(videos, classes)
    return baselines.best_forms(
        {
            name: {
                form: detect(table, targets, HEADLINE, classes.names, resamples=1).result().metrics["mAP"]
                for form, table in by_form.items()
            }
            for name, by_form in zero_shot_systems(scorer, params, videos, classes).items()
        }
    )


def gain(model: Detection, other: Detection, name: str, group: Sequence[str] | None, words: str) -> Result:
    """Subtracts another system from the model, in points of mAP and mcAP; replicates draw the same videos for both."""
    names = model.table.names if group is None else tuple(group)
    places = [model.table.names.index(n) for n in names]
    ours, theirs = model.table.take(places), other.table.take(places)
    present = ours.positives > 0
    metrics, intervals = {}, {}
    for metric, value, replicates in (("mAP", "ap", "ap_draws"), ("mcAP", "cap", "cap_draws")):
        difference = float((getattr(ours, value) - getattr(theirs, value))[present].mean())
        metrics[f"{metric} gain"] = 100 * difference
        gaps = frame_detection.class_mean(getattr(ours, replicates) - getattr(theirs, replicates))
        intervals[f"{metric} gain"] = frame_detection.interval(gaps, difference)
    return Result(
        protocol=f"gain/{model.protocol.name}/over {name}/{words}",
        metrics=metrics,
        items=ours.frames,
        chance=dict.fromkeys(metrics, 0.0),
        interval=intervals,
        notes=("points of the model above the baseline; 0 is no gain",),
    )


def quick_results(
    scorer: Scorer, videos: Sequence[data.FeatureVideo], classes: ClassSet, params: dict
) -> list[Result]:
    """Scores the model's answer on validation videos while training; held-out classes apart where they are shown."""
    scored = score_videos(scorer, params, videos, classes, every=False)
    return grouped_results(scored.detection("fused", resamples=_QUICK), scored.held_out, "fused/")


def full_results(
    scorer: Scorer,
    params: dict,
    scored: Scored,
    chosen: dict[str, str] | None = None,
    chosen_on: str = "",
) -> list[Result]:
    """Scores every protocol, branch, fusion and baseline.

    Args:
      chosen: baseline -> form; None takes "softmax" and says so.
      chosen_on: split that they were chosen on.

    Raises:
      VtjaxError: no protocol scores a frame that shows a class.
    """
    results, held_out = [], scored.held_out
    short, empty = [], []
    for name in PROTOCOLS:
        try:
            results += grouped_results(scored.detection("fused", name), held_out, "fused/")
        except NoFrameScored:
            short.append(name)
        except NoClassShown:
            empty.append(name)
    if not results:
        raise VtjaxError("no protocol has a frame to score")
    notes = [f"no frame is scored by {', '.join(short)}: the videos are too short"] if short else []
    notes += [f"no frame that {', '.join(empty)} would score shows a class"] if empty else []
    results[0] = dataclasses.replace(results[0], notes=(*results[0].notes, *notes))
    model = scored.detection("fused")
    for system in scored.systems:
        if system != "fused":
            results += grouped_results(scored.detection(system), held_out, f"{system}/")
    gains = []
    for name, by_form in zero_shot_systems(scorer, params, scored.videos, scored.classes).items():
        form = (chosen or {}).get(name) or next(f for f in by_form if f.endswith("softmax"))
        how = f"by {form}, the best of {len(by_form)} forms on {chosen_on}" if chosen else f"by {form}, as published"
        other = detect(by_form[form], scored.targets, HEADLINE, scored.classes.names)
        results += [
            dataclasses.replace(r, notes=(*r.notes, how)) for r in grouped_results(other, held_out, f"{name}/")
        ]
        gains += [gain(model, other, name, *group) for group in class_groups(model, held_out)]
    return results + gains


def open_scored(run: Any, split: str = "", every: bool = True) -> Scored:
    """Scores a split of a run's data, default its test split.

    Raises:
      VtjaxError: unknown split, missing data or checkpoint, or a split without classes.
    """
    name = split or run.experiment.method.data.test_split
    videos, classes = run.model.split(name)
    if not data.annotated(videos):
        raise VtjaxError(f"no video of split {name!r} is annotated with classes, so there is nothing to score against")
    return score_videos(run.model.scorer, run.params, videos, classes, every)


def baseline_forms(run: Any) -> tuple[dict[str, str] | None, str]:
    """Chooses the baselines' forms on the validation split.

    Returns:
      (baseline -> form, the split); (None, "") without an encoder, or where there is no such split or none of its
      frames shows a class: the published form is taken then, and named.
    """
    name, scorer = run.experiment.method.data.val_split, run.model.scorer
    if scorer.encoder is None:
        return None, ""
    try:
        return choose_forms(scorer, run.params, *run.model.split(name)), name
    except (MissingSplit, NoClassShown):
        return None, ""


def evaluate(run: Any, *, split: str = "") -> list[Result]:
    """Scores every protocol on a split of the run's data.

    Args:
      split: default its test split.

    Raises:
      VtjaxError: unknown split, missing data or checkpoint, or a split without classes.
    """
    scored = open_scored(run, split)
    return full_results(run.model.scorer, run.params, scored, *baseline_forms(run))
