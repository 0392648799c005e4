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
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vtjax.errors import VtjaxError
from vtjax.evals.frame_detection import Detection, class_mean, detect, grouped_results, interval
from vtjax.evals.frame_protocols import PROTOCOLS
from vtjax.evals.frame_targets import FrameTargets
from vtjax.evals.protocol import Result
from vtjax.methods.ovoad import baselines, data, scores, task
from vtjax.methods.ovoad.classes import ClassSet
from vtjax.methods.ovoad.config import span_of
from vtjax.methods.ovoad.embed import Scorer, open_scorer
from vtjax.methods.ovoad.scores import Bank

HEADLINE = "lstr"
_QUICK = 100  # resamples while training


@dataclasses.dataclass
class Scored:
    """Videos of a split and every system's scores of them. systems: name -> video -> float [L, C]. also: video ->
    per-frame extras of the model (actionness [L], binding [L], nearest [L], the class of the frame's group)."""

    videos: list[data.FeatureVideo]
    classes: ClassSet
    targets: dict[str, FrameTargets]
    systems: dict[str, dict[str, np.ndarray]]
    also: dict[str, dict[str, np.ndarray]]

    def detection(self, system: str, protocol: str = HEADLINE, resamples: int = 400) -> Detection:
        """One system by one protocol."""
        return detect(self.systems[system], self.targets, protocol, self.classes.names, resamples=resamples)

    @property
    def held_out(self) -> list[str]:
        return [n for n, h in zip(self.classes.names, self.classes.held_out, strict=True) if h]


def frame_targets(videos: Sequence[data.FeatureVideo], classes: ClassSet) -> dict[str, FrameTargets]:
    """Targets by video, in the columns of the classes."""
    return {v.key: FrameTargets(v.targets(len(classes)), classes.names, v.fps) for v in videos}


def fusions(scorer: Scorer) -> dict[str, Any]:
    """Other fusions than the configured one: name -> OvoadFusionConfig."""
    own, found = scorer.config.fusion, {}
    for mode in ("paper", "code_mean", "calibrated"):
        for clip in (0.0, 1.0) if scorer.encoder is not None else (0.0,):
            name = f"fusion {mode}" + (" with encoder" if clip else "")
            found[name] = dataclasses.replace(own, mode=mode, group=1.0, current=1.0, clip=clip, background="none")
    found[f"fusion {own.mode}, masked"] = dataclasses.replace(own, background="mask")
    return found


@functools.lru_cache(maxsize=4)
def _compiled(scorer: Scorer, every: bool):
    """One pass of the model, all fusions from it."""
    others = fusions(scorer) if every else {}

    def function(given: tuple[dict, Bank], batch: tuple[jax.Array, jax.Array]):
        (params, bank), (features, valid) = given, batch
        found = scorer.score(params, features, valid, bank)
        fused = {"fused": found.fused, "clustering alone": found.group, "current frame alone": found.current}
        if found.clip is not None:
            fused["encoder alone"] = found.clip
        if others:
            encoded = task.encode_window(scorer.config, scorer.sizes, params, features, valid, dtype=scorer.dtype)
            for name, fusion in others.items():
                config = dataclasses.replace(scorer.config, fusion=fusion)
                fused[name] = scores.frame_scores(config, params, encoded, bank, found.clip).fused
        own = found.binding[:, -1]
        also = {
            "actionness": found.actionness[:, -1],
            "binding": own,
            "nearest": jnp.take_along_axis(found.mapping.argmax(axis=-1), own[:, None], axis=1)[:, 0],
        }
        return fused, also

    return jax.jit(function)


def score_videos(
    scorer: Scorer,
    params: dict,
    videos: Sequence[data.FeatureVideo],
    classes: ClassSet,
    every: bool = True,
    targets: dict[str, FrameTargets] | None = None,
) -> Scored:
    """Every frame of every video by the model and, with `every`, by its branches' other fusions.

    targets: by video, where they are not the videos' own parts.

    Raises VtjaxError: no video.
    """
    if not videos:
        raise VtjaxError("there is no video to evaluate on")
    bank, keys = scorer.bank(params, classes), [v.key for v in videos]
    ends = np.cumsum([len(v) for v in videos])[:-1]
    found = scorer.over_windows(_compiled(scorer, every), params, bank, [v.features for v in videos])
    systems, columns = (
        {name: dict(zip(keys, np.split(rows, ends), strict=True)) for name, rows in part.items()} for part in found
    )
    extras = {key: {name: tables[key] for name, tables in columns.items()} for key in keys}
    targets = frame_targets(videos, classes) if targets is None else targets
    return Scored(list(videos), classes, targets, systems, extras)


def zero_shot_systems(
    scorer: Scorer, params: dict, videos: Sequence[data.FeatureVideo], classes: ClassSet
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Baseline -> form -> video -> scores; {} where there is no encoder."""
    if scorer.encoder is None:
        return {}
    bank, encoder = scorer.bank(params, classes), scorer.encoder
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for video in videos:
        own = baselines.zero_shot_scores(
            video.features, encoder.projection, bank, len(classes), encoder.scale, span_of(scorer.config.model),
            encoder.encoder,
        )  # fmt: skip
        for name, by_form in own.items():
            for form, table in by_form.items():
                found.setdefault(name, {}).setdefault(form, {})[video.key] = table
    return found


def choose_forms(
    scorer: Scorer, params: dict, videos: Sequence[data.FeatureVideo], classes: ClassSet
) -> dict[str, str]:
    """Baseline -> the form with the highest mAP on these videos."""
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
    """The model minus another system in points of mAP and mcAP; the replicates draw the same videos for both."""
    names = model.table.names if group is None else tuple(group)
    places = [model.table.names.index(n) for n in names]
    ours, theirs = model.table.take(places), other.table.take(places)
    present = ours.positives > 0
    metrics, intervals = {}, {}
    for metric, value, replicates in (("mAP", "ap", "ap_draws"), ("mcAP", "cap", "cap_draws")):
        difference = float((getattr(ours, value) - getattr(theirs, value))[present].mean())
        metrics[f"{metric} gain"] = 100 * difference
        gaps = class_mean(getattr(ours, replicates) - getattr(theirs, replicates))
        intervals[f"{metric} gain"] = interval(gaps, difference)
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
    """While training: the model's answer on the validation videos; held-out classes apart where they are shown."""
    scored = score_videos(scorer, params, videos, classes, every=False)
    return grouped_results(scored.detection("fused", resamples=_QUICK), scored.held_out, "fused/")


def full_results(
    scorer: Scorer,
    params: dict,
    scored: Scored,
    chosen: dict[str, str] | None = None,
    chosen_on: str = "",
) -> list[Result]:
    """Every protocol, branch, fusion and baseline. chosen: baseline -> form; None takes "softmax" and says so."""
    results, held_out = [], scored.held_out
    skipped = []
    for name in PROTOCOLS:
        try:
            results += grouped_results(scored.detection("fused", name), held_out, "fused/")
        except VtjaxError:
            skipped.append(name)  # videos that are shorter than its window
    if not results:
        raise VtjaxError("no protocol has a frame to score")
    if skipped:
        note = f"no frame is scored by {', '.join(skipped)}: the videos are too short"
        results[0] = dataclasses.replace(results[0], notes=(*results[0].notes, note))
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
        for group, words in _groups(model, held_out):
            gains.append(gain(model, other, name, group, words))
    return results + gains


def _groups(model: Detection, held_out: Sequence[str]) -> list[tuple[list[str] | None, str]]:
    """(names, words) of the groups of classes that are reported, as grouped_results has them."""
    shown = {n for n, p in zip(model.table.names, model.table.positives) if p}
    unseen = [n for n in model.table.names if n in set(held_out)]
    seen = [n for n in model.table.names if n not in set(held_out)]
    found: list[tuple[list[str] | None, str]] = [(None, "all classes")]
    if unseen:
        found += [(g, w) for g, w in ((seen, "seen classes"), (unseen, "held-out classes")) if shown & set(g)]
    return found


def open_scored(run: Any, split: str = "", every: bool = True) -> tuple[Scorer, Scored]:
    """A run's scorer and a split of its data (default: its test split), scored."""
    scorer = open_scorer(run.experiment, run.work)
    name = split or run.experiment.method.data.test_split
    videos, classes, _ = data.open_split(run.experiment, run.work, name, scorer.encoder)
    if not any(label > 0 for video in videos for label in video.labels):
        raise VtjaxError(f"no video of split {name!r} is annotated with classes, so there is nothing to score against")
    return scorer, score_videos(scorer, run.params, videos, classes, every)


def baseline_forms(run: Any, scorer: Scorer) -> tuple[dict[str, str] | None, str]:
    """(baseline -> form, split it was chosen on); (None, "") without an encoder or an annotated validation split."""
    name = run.experiment.method.data.val_split
    if scorer.encoder is None:
        return None, ""
    try:
        videos, classes, _ = data.open_split(run.experiment, run.work, name, scorer.encoder)
        return choose_forms(scorer, run.params, videos, classes), name
    except VtjaxError:
        return None, ""  # no such split, or none of its frames shows a class: the published form is taken, and named


def evaluate(run: Any, split: str = "") -> list[Result]:
    """Every protocol on a split of the run's data (default: its test split).

    Raises:
      VtjaxError: unknown split, missing data or checkpoint, or a split without classes.
    """
    scorer, scored = open_scored(run, split)
    chosen, chosen_on = baseline_forms(run, scorer)
    return full_results(scorer, run.params, scored, chosen, chosen_on)
