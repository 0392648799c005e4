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

import jax
import numpy as np
from absl import flags

from vtjax import command_line, methods, remote
from vtjax.errors import VtjaxError
from vtjax.evals.frame_detection import base_to_novel
from vtjax.evals.protocol import Result, format_table, save_results
from vtjax.files import as_path, write_atomically
from vtjax.hosts import processes
from vtjax.methods.ovoad import data, frame_sets, frame_splits, scores
from vtjax.methods.ovoad.classes import ClassSet, named_classes
from vtjax.methods.ovoad.embed import Scorer, open_scorer
from vtjax.methods.ovoad.evaluate import Scored, full_results, score_videos
from vtjax.methods.ovoad.frame_sets import FrameSet
from vtjax.methods.ovoad.scores import Bank
from vtjax.training.recipe import stage_params

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
    """Opens the named set.

    Raises:
      VtjaxError: it is unknown, or its files are missing.
    """
    if dataset == "thumos14":
        return frame_sets.thumos14(targets, split or "test")
    if dataset in ("epic-verb", "epic-noun"):
        return frame_sets.epic_verbs_or_nouns(targets, dataset.removeprefix("epic-"), split or "validation")
    if not info:
        raise VtjaxError(f"--dataset={dataset}: thumos14, epic-verb, epic-noun, or an entry of --info")
    return frame_sets.lstr_folder(targets, dataset, info, split or "test")


def class_set(frames: FrameSet, scorer: Scorer) -> ClassSet:
    """Makes the set's classes under its own names, with prompts made of its phrases, without the ambiguous class."""
    ambiguous = next(iter(frames.targets.values())).ambiguous
    kept = [i for i in range(1, len(frames.classes)) if i != ambiguous]
    made = named_classes([frames.phrases[i] for i in kept], scorer.config)
    names = (frames.classes[0], *(frames.classes[i] for i in kept))
    return dataclasses.replace(made, names=names)


def feature_videos(frames: FrameSet, folder: str | os.PathLike, width: int, fps: float) -> list[data.FeatureVideo]:
    """Maps the features of the set's videos from their files.

    Raises:
      VtjaxError: a video without a file, a file that is no array of features, or another width than the model's.
    """
    folder = pathlib.Path(folder)
    absent = [video for video in frames.targets if not (folder / f"{video}.npy").is_file()]
    if absent:
        some = ", ".join(absent[:3]) + (", ..." if len(absent) > 3 else "")
        raise VtjaxError(f"{folder}: no features of {len(absent)} of {len(frames.targets)} videos: {some}")
    videos = []
    for video in frames.targets:
        path = folder / f"{video}.npy"
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise VtjaxError(f"{path}: not an array of features: {error}") from None
        if rows.ndim != 2 or not len(rows) or rows.dtype.kind != "f" or rows.shape[1] != width:
            kind = f"{rows.dtype} {list(rows.shape)}"
            raise VtjaxError(f"{path}: float [rows, {width}] is expected, the model's width, not {kind}")
        videos.append(data.feature_video(video, rows, [], fps))
    return videos


def score_set(
    scorer: Scorer, params: dict, frames: FrameSet, features: str | os.PathLike, every: bool = True
) -> Scored:
    """Scores every row of a set.

    Args:
      scorer, params: of a run.
      frames: the set.
      features: folder of its features.
      every: also by the branches' other fusions.

    Raises:
      VtjaxError: features that cannot be used.
    """
    config = scorer.config
    videos = feature_videos(frames, features, config.model.width, config.data.fps)
    return score_videos(scorer, params, videos, class_set(frames, scorer), every, dict(frames.targets))


def novel_results(
    scorer: Scorer,
    params: dict,
    scored: Scored,
    splits: Mapping[str, Sequence[Sequence[str]]] = frame_splits.THUMOS14,
    protocol: str = "ovoad",
) -> list[Result]:
    """Scores base-to-novel splits (paper, table 3): of each, classes are its unseen ones and the background.

    Windows are encoded once for all splits.
    """
    names, prompts = scored.classes.names, dict(zip(scored.classes.names, scored.classes.prompts, strict=True))
    banks: dict[tuple[str, ...], Bank] = {}
    for unseen in (u for lists in splits.values() for u in lists):
        listed = (names[0], *(n for n in names[1:] if n in set(unseen)))
        classes = ClassSet(listed, tuple(prompts[n] for n in listed), np.zeros(len(listed), bool))
        banks[listed] = scorer.bank(params, classes)

    @jax.jit
    def fused(given: tuple[dict, list[Bank]], batch: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
        (params, listed_banks), (features, valid) = given, batch
        encoded = scorer.objective.encode_window(params, features, valid)
        clips = [scorer.encoder_scores(features, valid, bank) for bank in listed_banks]
        pairs = zip(listed_banks, clips, strict=True)
        return [scores.frame_scores(scorer.objective, params, encoded, bank, clip).fused for bank, clip in pairs]

    rows = scorer.over_windows(fused, params, list(banks.values()), [v.features for v in scored.videos])
    keys, ends = [v.key for v in scored.videos], np.cumsum([len(v) for v in scored.videos])[:-1]
    tables = {listed: dict(zip(keys, np.split(x, ends), strict=True)) for listed, x in zip(banks, rows, strict=True)}
    return base_to_novel(lambda listed: tables[listed], scored.targets, splits, protocol)


def prediction_tables(scored: Scored) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gives (scores, targets) by video in the targets' columns; the ambiguous class, which is not scored, is 0."""
    tables, truth = {}, {}
    for video, targets in scored.targets.items():
        columns = [targets.classes.index(name) for name in scored.classes.names]
        table = np.zeros((len(scored.systems["fused"][video]), len(targets.classes)), np.float32)
        table[:, columns] = scored.systems["fused"][video]
        length = min(len(table), len(targets.targets))
        tables[video], truth[video] = table[:length], targets.targets[:length]
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
    command_line.quiet_libraries()
    options = flags.FLAGS
    missing = [name for name in ("work_directory", "dataset", "targets", "features") if not getattr(options, name)]
    if missing:
        raise VtjaxError(f"--{missing[0]} is needed; --help says what it is")
    if options.base_to_novel and options.dataset != "thumos14":
        raise VtjaxError("--base_to_novel: the published splits are of thumos14")
    if not as_path(options.work_directory).is_dir():
        raise VtjaxError(f"{options.work_directory}: no such work directory; `python -m vtjax.train` makes one")
    work = remote.local(options.work_directory, processes.index_of())
    remote.fetch(work)
    experiment = methods.load_experiment(work / "config.json")
    if experiment.name != "ovoad":
        raise VtjaxError(f"{options.work_directory}: a run of {experiment.name!r}; one of 'ovoad' is expected")
    frames = open_set(options.dataset, options.targets, options.info, options.split)
    print(frames.coverage.report())
    scorer, params = open_scorer(experiment, work), stage_params(work, "train", options.which)
    scored = score_set(scorer, params, frames, options.features)
    results = full_results(scorer, params, scored)
    if options.base_to_novel:
        results += novel_results(scorer, params, scored)
    print(format_table(results))
    print(f"\npapers give {frames.metric}, by {' and '.join(frames.protocols)}")
    path = pathlib.Path(options.output or work / f"results-{options.dataset}.json")
    save_results(path, results)
    print(f"written: {path}")
    if options.predictions:
        print(f"written: {write_predictions(options.predictions, *prediction_tables(scored))}")
    return 0


def main() -> None:
    command_line.run(published)


if __name__ == "__main__":
    main()
