"""A run scored on a published set from the features of its frames, by the protocols that papers use:

    python -m vtjax.methods.ovoad.published --work_directory=RUN --dataset=thumos14 --targets=DIR --features=DIR

dataset: thumos14; epic-verb, epic-noun (official csv files, official class order); or the name of an entry of --info, a
data_info.json of LSTR, TeSTra and OV-OAD or a video_list.json of MiniROAD, whose targets are DIR/target_perframe.
features: DIR/<video>.npy, float [rows, values], one row for every row of the targets, by the run's encoder.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from vtjax import command_line
from vtjax.errors import VtjaxError
from vtjax.evals.frame_detection import base_to_novel
from vtjax.evals.protocol import Result
from vtjax.files import write_atomically
from vtjax.methods.ovoad import data, frame_sets, frame_splits, scores, task
from vtjax.methods.ovoad.classes import ClassSet, named_classes
from vtjax.methods.ovoad.embed import WINDOWS, Scorer, open_scorer
from vtjax.methods.ovoad.evaluate import Scored, full_results, score_videos
from vtjax.methods.ovoad.frame_sets import FrameSet
from vtjax.methods.ovoad.scores import Bank
from vtjax.methods.ovoad.stream import CAPACITY

flags.DEFINE_string("work_directory", None, "Work directory of vtjax.train.")
flags.DEFINE_string("which", "last", 'Checkpoint: "last", a step, or a metric of config.train.best.')
flags.DEFINE_string("dataset", "", "thumos14, epic-verb, epic-noun, or an entry of --info.")
flags.DEFINE_string("targets", "", "Folder of the annotation.")
flags.DEFINE_string("info", "", "data_info.json or video_list.json, where --dataset is an entry of it.")
flags.DEFINE_string("features", "", "Folder of <video>.npy.")
flags.DEFINE_string("split", "", "Split of the set; default its test split.")
flags.DEFINE_bool("base_to_novel", False, "Also the base-to-novel splits of THUMOS14.")
flags.DEFINE_string("predictions", "", "File for the scores in LSTR's format, .pkl.")
flags.DEFINE_string("output", "", "JSON file; default results-<dataset>.json in the work directory.")


def open_set(dataset: str, targets: str, info: str = "", split: str = "") -> FrameSet:
    """The named set. Raises VtjaxError: unknown, or its files are missing."""
    if dataset == "thumos14":
        return frame_sets.thumos14(targets, split or "test")
    if dataset in ("epic-verb", "epic-noun"):
        return frame_sets.epic_verbs_or_nouns(targets, dataset.removeprefix("epic-"), split or "validation")
    if not info:
        raise VtjaxError(f"--dataset={dataset}: thumos14, epic-verb, epic-noun, or an entry of --info")
    return frame_sets.lstr_folder(targets, dataset, info, split or "test")


def class_set(found: FrameSet, scorer: Scorer) -> ClassSet:
    """The set's classes under its own names, with prompts made of its phrases; the ambiguous class is left out."""
    ambiguous = next(iter(found.targets.values())).ambiguous
    kept = [i for i in range(1, len(found.classes)) if i != ambiguous]
    made = named_classes([found.phrases[i] for i in kept], scorer.config)
    names = (found.classes[0], *(found.classes[i] for i in kept))
    return dataclasses.replace(made, names=names)


def feature_videos(found: FrameSet, folder: str | os.PathLike, width: int, fps: float) -> list[data.FeatureVideo]:
    """Features of the set's videos, mapped from their files.

    Raises VtjaxError: a video without a file, a file that is no array of features, or another width than the model's.
    """
    folder = pathlib.Path(folder)
    absent = [video for video in found.targets if not (folder / f"{video}.npy").is_file()]
    if absent:
        some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise VtjaxError(f"{folder}: no features of {len(absent)} of {len(found.targets)} videos: {some}")
    videos = []
    for video in found.targets:
        path = folder / f"{video}.npy"
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise VtjaxError(f"{path}: not an array of features: {error}") from None
        if rows.ndim != 2 or not len(rows) or rows.dtype.kind != "f" or rows.shape[1] != width:
            found_shape = f"{rows.dtype} {list(rows.shape)}"
            raise VtjaxError(f"{path}: float [rows, {width}] is expected, the model's width, found {found_shape}")
        videos.append(data.feature_video(video, rows, [], fps))
    return videos


def score_set(run: Any, found: FrameSet, features: str | os.PathLike, every: bool = True) -> tuple[Scorer, Scored]:
    """A run's scores of every row of a set."""
    scorer = open_scorer(run.experiment, run.work)
    config = scorer.config
    videos = feature_videos(found, features, config.model.width, config.data.fps)
    return scorer, score_videos(scorer, run.params, videos, class_set(found, scorer), every, dict(found.targets))


def novel_results(
    scorer: Scorer,
    params: dict,
    scored: Scored,
    splits: Mapping[str, Sequence[Sequence[str]]] = frame_splits.THUMOS14,
    protocol: str = "ovoad",
) -> list[Result]:
    """Base-to-novel splits: for each, classes are its unseen ones and the background. Windows are encoded once."""
    banks: dict[tuple[str, ...], Bank] = {}
    names, prompts = scored.classes.names, dict(zip(scored.classes.names, scored.classes.prompts, strict=True))
    for unseen in (u for lists in splits.values() for u in lists):
        listed = (names[0], *(n for n in names[1:] if n in set(unseen)))
        own = ClassSet(listed, tuple(prompts[n] for n in listed), np.zeros(len(listed), bool))
        banks[listed] = scorer.bank(params, own, max(CAPACITY, len(listed)))
    tables = _with_banks(scorer, params, scored.videos, banks)
    return base_to_novel(lambda listed: tables[listed], scored.targets, splits, protocol)


def _with_banks(
    scorer: Scorer, params: dict, videos: Sequence[data.FeatureVideo], banks: Mapping[tuple[str, ...], Bank]
) -> dict[tuple[str, ...], dict[str, np.ndarray]]:
    """Class list -> video -> scores [L, C]."""
    config = scorer.config

    @jax.jit
    def encode(params: dict, features: jax.Array, valid: jax.Array) -> task.Encoded:
        return task.encode_window(config, scorer.sizes, params, features, valid, dtype=scorer.dtype)

    @jax.jit
    def fuse(params: dict, encoded: task.Encoded, features: jax.Array, valid: jax.Array, bank: Bank) -> jax.Array:
        clip = scorer.encoder_scores(features, valid, bank) if config.fusion.clip else None
        return scores.frame_scores(config, params, encoded, bank, clip).fused

    parts: dict[tuple[str, ...], dict[str, list[np.ndarray]]] = {listed: {} for listed in banks}
    for video in videos:
        for first in range(0, len(video), WINDOWS):
            rows = np.minimum(np.arange(first, first + WINDOWS), len(video) - 1)
            pairs = [data.window_at(video.features, row, scorer.window) for row in rows]
            features, valid = np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])
            encoded = encode(params, features, valid)
            for listed, bank in banks.items():
                table = np.asarray(fuse(params, encoded, features, valid, bank))[: len(video) - first, : len(listed)]
                parts[listed].setdefault(video.key, []).append(table)
    return {listed: {k: np.concatenate(v) for k, v in own.items()} for listed, own in parts.items()}


def prediction_tables(scored: Scored) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(scores, targets) by video in the targets' columns; the ambiguous class, which is not scored, is 0."""
    tables, truth = {}, {}
    for video, own in scored.targets.items():
        columns = [own.classes.index(name) for name in scored.classes.names]
        table = np.zeros((len(scored.systems["fused"][video]), len(own.classes)), np.float32)
        table[:, columns] = scored.systems["fused"][video]
        length = min(len(table), len(own.targets))
        tables[video], truth[video] = table[:length], own.targets[:length]
    return tables, truth


def write_predictions(
    path: str | os.PathLike, scores: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]
) -> pathlib.Path:
    """Writes the file that LSTR's tools read, without a configuration: scores and targets [L, C] by video. Atomic."""
    tree = {
        "cfg": None,
        "perframe_pred_scores": {k: np.asarray(v, np.float32) for k, v in scores.items()},
        "perframe_gt_targets": {k: np.asarray(v, np.float32) for k, v in targets.items()},
    }
    return write_atomically(path, pickle.dumps(tree, protocol=4))


def published(_: Sequence[str]) -> int:
    from vtjax.evals.protocol import format_table, save_results
    from vtjax.runs import Run

    command_line.quiet_libraries()
    options = flags.FLAGS
    missing = [name for name in ("work_directory", "dataset", "targets", "features") if not getattr(options, name)]
    if missing:
        raise VtjaxError(f"--{missing[0]} is needed; --help says what it is")
    if options.base_to_novel and options.dataset != "thumos14":
        raise VtjaxError("--base_to_novel: the published splits are of thumos14")
    run = Run(options.work_directory, options.which)
    found = open_set(options.dataset, options.targets, options.info, options.split)
    print(found.coverage.report())
    scorer, scored = score_set(run, found, options.features)
    results = full_results(scorer, run.params, scored)
    if options.base_to_novel:
        results += novel_results(scorer, run.params, scored)
    print(format_table(results))
    print(f"\npapers give {found.metric}, by {' and '.join(found.protocols)}")
    path = pathlib.Path(options.output or run.work / f"results-{options.dataset}.json")
    save_results(path, results)
    print(f"written: {path}")
    if options.predictions:
        print(f"written: {write_predictions(options.predictions, *prediction_tables(scored))}")
    return 0


def main() -> None:
    command_line.run(published)


if __name__ == "__main__":
    main()
