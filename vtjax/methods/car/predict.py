"""Search: a text over a folder of motions, or a motion over a list of texts, ranked by cosine similarity."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from vtjax.arguments import LinesOf
from vtjax.data.motion.clip import MotionClip
from vtjax.data.motion.store import MotionStore
from vtjax.errors import VtjaxError
from vtjax.evals.embed import cosines
from vtjax.methods.car import cards
from vtjax.methods.car.cards import Match
from vtjax.report.answer import Answer, ranking


def open_motions(path: str, cache: pathlib.Path, joint_map: str = "auto", fps: float | None = None) -> MotionStore:
    """Motions as a store: a prepared folder as it is; anything that vtjax.prepare reads is prepared into `cache`.

    Raises:
      VtjaxError: nothing usable there.
    """
    folder = pathlib.Path(path)
    if (folder / "meta.json").is_file():
        return MotionStore(folder)
    from vtjax.data.motion.prepare import Options, prepare

    files = sorted(p for p in (folder.rglob("*") if folder.is_dir() else [folder]) if p.is_file())
    if not files:
        raise VtjaxError(f"--motions={path}: no such file or folder, or it is empty")
    stamp = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    digest = hashlib.sha256(json.dumps([stamp, joint_map, fps]).encode()).hexdigest()[:16]
    output = cache / f"motions-{digest}"
    if not (output / "meta.json").is_file():
        whole: dict[str, Any] = {"split_by": "none", "events": "none", "overwrite": output.exists()}
        print(prepare(Options((path,), str(output), joint_map=joint_map, fps=fps, **whole)))
    return MotionStore(output)


def predict(
    run: Any,
    *,
    text: str = "",
    motion: str = "",
    texts: Annotated[Sequence[str], LinesOf("text")] = (),
    motions: str = "",
    split: str = "",
    top: int = 10,
    joint_map: str = "auto",
    fps: float | None = None,
) -> list[Match]:
    """Ranks motions by a text, or texts by a motion, by cosine similarity, best first.

    Args:
      text: Query over motions: those at `motions`, or else those of a split of the run's data.
      motion: Query over `texts`: a motion file, or the key of a clip in `motions` or the split; a file of several
        motions stands for its first.
      texts: what a motion is compared with.
      motions: Prepared folder, or file or folder of .bvh, .npy, .npz; default the split.
      split: Split of the run's data to search; default its test split.
      top: Number of answers.
      joint_map: smpl22, bandai21, cmu_bvh, mixamo, a .json file, or auto.
      fps: Frame rate of joint arrays that do not say it.

    Returns:
      At most `top` matches, each with name, score (cosine), text and, of motions, features [T, 263] and event bounds.

    Raises:
      VtjaxError: neither or both of text and motion, nothing to search, or files that cannot be read.
    """
    if bool(text.strip()) == bool(motion):
        raise VtjaxError("give one query: text=... (over motions) or motion=... (over texts)")
    if top < 1:
        raise VtjaxError(f"top={top}: at least one answer must be asked for")
    model = run.model
    store = open_motions(motions, model.cache, joint_map, fps) if motions else None
    if text:
        clips, embeddings = model.gallery(run.params, store, split)
        scores = cosines(model.embedder.texts(run.params, [text]), embeddings)[0]
        return [match_of(clips[i], float(scores[i])) for i in best(scores, top)]
    if not texts or not all(t.strip() for t in texts):
        raise VtjaxError("a motion query needs texts to rank, none of them empty")
    query = find_motion(run, motion, motions, split, joint_map, fps)
    embedding = model.embedder.motions(run.params, [query.features])
    scores = cosines(embedding, model.embedder.texts(run.params, list(texts)))[0]
    return [Match("", float(scores[i]), texts[i]) for i in best(scores, top)]


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` highest scores, the first of equals first."""
    return np.argsort(-scores, kind="stable")[:count]


def find_motion(
    run: Any, name: str, motions: str = "", split: str = "", joint_map: str = "auto", fps: float | None = None
) -> MotionClip:
    """Finds the clip of a motion query: a file, or a key among `motions` or the split.

    Raises:
      VtjaxError: no such file or key.
    """
    if pathlib.Path(name).exists():
        return open_motions(name, run.model.cache, joint_map, fps)[0]
    store = open_motions(motions, run.model.cache, joint_map, fps) if motions else None
    for clip in store if store is not None else (clip for _, clip in run.model.clips(split)):
        if clip.key == name:
            return clip
    raise VtjaxError(f"--motion={name}: neither a file nor the key of a motion that is searched")


def match_of(clip: MotionClip, score: float, right: bool = False) -> Match:
    """A clip as a ranked answer, with its first caption."""
    caption = clip.captions[0] if clip.captions else None
    events = caption.events if caption else ()
    return Match(clip.key, score, caption.text if caption else "", clip.features, clip.bounds, events, right)


def answer(run: Any, given: Mapping[str, Any], ranked: Sequence[Match]) -> Answer:
    """The ranking for a terminal, JSON, CSV and a page with skeletons."""
    query = cards.Query(text=given["text"])
    if given["motion"]:
        place = {name: given[name] for name in ("motions", "split", "joint_map", "fps")}
        clip = find_motion(run, given["motion"], **place)
        query = cards.Query(name=clip.key, motion=clip.features, bounds=clip.bounds)
    answers = [{"rank": i, "score": m.score, "name": m.name, "text": m.text} for i, m in enumerate(ranked, 1)]
    record = {"query": given["text"] or given["motion"], "score": "cosine", "answers": answers}
    lines, header, rows = ranking(ranked)
    return Answer(lines, record, header, rows, cards.query_page(query, ranked, facts={"model": str(run.work)}))
