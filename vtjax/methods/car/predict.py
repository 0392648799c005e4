"""Search: a text over a folder of motions, or a motion over a list of texts, ranked by cosine similarity."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.data.motion.clip import MotionClip
from vtjax.data.motion.store import MotionStore
from vtjax.errors import VtjaxError
from vtjax.files import write_atomically
from vtjax.methods.car import cards as report
from vtjax.methods.car import data
from vtjax.methods.car.embed import open_embedder, similarity


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
        whole = {"split_by": "none", "events": "none", "overwrite": output.exists()}
        print(prepare(Options((path,), str(output), joint_map=joint_map, fps=fps, **whole)))
    return MotionStore(output)


def predict(
    run: Any,
    *,
    text: str = "",
    motion: str = "",
    texts: Sequence[str] = (),
    motions: str = "",
    split: str = "",
    top: int = 10,
    joint_map: str = "auto",
    fps: float | None = None,
) -> list[report.Match]:
    """Ranked answers, best first.

    text: a query over motions: those at `motions` (a prepared folder, or a file or folder of .bvh, .npy, .npz), or
    else those of a split of the run's data (default its test split).
    motion: a query over `texts`: a motion file, or the key of a clip in `motions` or the split; a file of several
    motions stands for its first.

    Raises:
      VtjaxError: neither or both of text and motion, nothing to search, or files that cannot be read.
    """
    if bool(text.strip()) == bool(motion):
        raise VtjaxError("give one query: text=... (over motions) or motion=... (over texts)")
    if top < 1:
        raise VtjaxError(f"top={top}: at least one answer must be asked for")
    embedder = open_embedder(run.experiment.method, run.work / "assets")
    if text:
        clips = _clips(run, motions, split, joint_map, fps)
        found = embedder.motions(run.params, [clip.features for clip in clips])
        scores = similarity(embedder.texts(run.params, [text]), found)[0]
        order = np.argsort(-scores, kind="stable")[:top]
        return [_match(clips[i], float(scores[i])) for i in order]
    if not texts or not all(t.strip() for t in texts):
        raise VtjaxError("a motion query needs texts to rank, none of them empty")
    clip = find_motion(run, motion, motions, split, joint_map, fps)
    scores = similarity(embedder.motions(run.params, [clip.features]), embedder.texts(run.params, list(texts)))[0]
    order = np.argsort(-scores, kind="stable")[:top]
    return [report.Match("", float(scores[i]), texts[i]) for i in order]


def find_motion(
    run: Any, name: str, motions: str = "", split: str = "", joint_map: str = "auto", fps: float | None = None
) -> MotionClip:
    """The clip of a motion query: a file, or a key among `motions` or the split.

    Raises:
      VtjaxError: no such file or key.
    """
    if pathlib.Path(name).exists():
        return open_motions(name, data.cache_of(run.experiment, run.work), joint_map, fps)[0]
    for clip in _clips(run, motions, split, joint_map, fps):
        if clip.key == name:
            return clip
    raise VtjaxError(f"--motion={name}: neither a file nor the key of a motion that is searched")


def _clips(run: Any, motions: str, split: str, joint_map: str, fps: float | None) -> list[MotionClip]:
    config, cache = run.experiment.method, data.cache_of(run.experiment, run.work)
    if motions:
        return list(open_motions(motions, cache, joint_map, fps))
    found = data.split_clips(data.open_store(config.data, cache), split or config.data.test_split)
    return [found[i][1] for i in range(len(found))]


def _match(clip: MotionClip, score: float) -> report.Match:
    caption = clip.captions[0] if clip.captions else None
    return report.Match(
        clip.key, score, caption.text if caption else "", clip.features, clip.bounds, caption.events if caption else ()
    )


def define_flags() -> None:
    """Flags of `python -m vtjax.predict` for this method."""
    from absl import flags

    flags.DEFINE_string("text", "", "Text to search motions with.")
    flags.DEFINE_string("motion", "", "Motion file, or key of a clip, to search texts with.")
    flags.DEFINE_string("texts", "", "File with one text a line, for --motion.")
    flags.DEFINE_string("motions", "", "Prepared folder, file or folder of .bvh, .npy, .npz; default the test split.")
    flags.DEFINE_string("split", "", "Split of the run's own data to search; default its test split.")
    flags.DEFINE_integer("top", 10, "Number of answers.", lower_bound=1)
    flags.DEFINE_string("joint_map", "auto", "smpl22, bandai21, cmu_bvh, mixamo, a .json file, or auto.")
    flags.DEFINE_float("fps", None, "Frame rate of joint arrays that do not say it.", lower_bound=1)


def command(run: Any, flags: Any, output: pathlib.Path) -> int:
    """One query from the command line: prints the ranking, writes OUTPUT.json and OUTPUT.html."""
    options = {"motions": flags.motions, "split": flags.split, "joint_map": flags.joint_map, "fps": flags.fps}
    texts = _lines(flags.texts) if flags.texts else []
    ranked = predict(run, text=flags.text, motion=flags.motion, texts=texts, top=flags.top, **options)
    query = report.Query(text=flags.text)
    if flags.motion:
        clip = find_motion(run, flags.motion, **options)
        query = report.Query(name=clip.key, motion=clip.features, bounds=clip.bounds)
    for place, match in enumerate(ranked, 1):
        print(f"{place:3d}  {match.score:+.3f}  {'  '.join(part for part in (match.name, match.text) if part)}")
    answers = [{"rank": i, "score": m.score, "name": m.name, "text": m.text} for i, m in enumerate(ranked, 1)]
    record = {"query": flags.text or flags.motion, "score": "cosine", "answers": answers}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output.with_suffix(".json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    path = report.query_report(output.with_suffix(".html"), query, ranked, facts={"model": str(run.work)})
    print(f"\nwritten: {output.with_suffix('.json')}, {path}")
    return 0


def _lines(path: str) -> list[str]:
    file = pathlib.Path(path)
    if not file.is_file():
        raise VtjaxError(f"--texts={path}: no such file")
    lines = [line.strip() for line in file.read_text().splitlines()]
    empty = [i for i, line in enumerate(lines, 1) if not line]
    if empty:
        raise VtjaxError(f"{path}:{empty[0]}: empty line; one text a line is expected")
    return lines
