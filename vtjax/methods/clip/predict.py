"""Search: a sentence over videos, or a video over sentences, ranked by cosine similarity."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtjax.data.video.container import VideoError
from vtjax.data.video.items import LISTS, read_items
from vtjax.data.video.source import ClipSource, VideoHandle, VideoSource
from vtjax.data.video.store import VideoStore
from vtjax.errors import Problems, VtjaxError
from vtjax.files import write_atomically
from vtjax.methods.clip import data
from vtjax.methods.clip.embed import Embedder, open_embedder
from vtjax.methods.clip.report import ranked, strip
from vtjax.methods.clip.text import unknown_words
from vtjax.report.markup import element
from vtjax.report.page import Page
from vtjax.text.tokenizer import words
from vtjax.worlds.drawn import cache_folder


@dataclasses.dataclass(frozen=True)
class Match:
    """One ranked answer. name: a video's key or file; start, end: the part of it in seconds; text: its caption, or the
    sentence itself; score: cosine; handle: opens the clip, None for sentences."""

    name: str
    score: float
    text: str = ""
    start: float | None = None
    end: float | None = None
    handle: VideoHandle | None = dataclasses.field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Plain dict without what is unknown."""
        values = {"score": self.score, "name": self.name, "start": self.start, "end": self.end, "text": self.text}
        return {k: v for k, v in values.items() if v not in (None, "")}


def open_source(path: str, problems: Problems) -> ClipSource:
    """Videos at `path`: a prepared folder, a folder of files, one file, or a list that vtjax.prepare reads.

    Raises:
      VtjaxError: nothing usable there.
    """
    place = pathlib.Path(path)
    if (place / "meta.json").is_file():
        return VideoStore(place)
    unit = "segment" if place.suffix.lower() in LISTS else "video"
    records, _ = read_items(path, problems, unit=unit)
    records = [r for r in records if r.path is not None]
    if not records:
        raise VtjaxError(f"{path}: no video there\n{problems.report()}".strip())
    return VideoSource(records)


def windows(source: ClipSource, seconds: float, problems: Problems) -> data.Rows:
    """Every readable video as one row, or, with `seconds` above 0, as windows of that length, half overlapping.

    Raises:
      VtjaxError: none can be read.
    """
    rows = []
    for index in range(len(source)):
        record = source.record(index)
        try:
            with source.open(index) as video:
                start, end = float(video.start), float(video.end)
        except VideoError as error:
            problems.add(error.where, error.reason)
            continue
        texts = tuple(c.text for c in record.captions)
        if seconds <= 0 or end - start <= seconds:
            rows.append(data.Row(index, record.id, None, texts))
            continue
        count = int(np.ceil((end - start - seconds) / (seconds / 2))) + 1
        for begin in np.linspace(start, end - seconds, count):
            span = (float(begin), float(begin + seconds))
            # An excerpt of an excerpt counts on the same clock.
            rows.append(data.Row(index, f"{record.id}@{span[0]:.2f}-{span[1]:.2f}", span, texts))
    if not rows:
        raise VtjaxError(f"no video can be read\n{problems.report()}")
    return data.Rows(source, rows)


def predict(
    run: Any,
    *,
    text: str = "",
    video: str = "",
    texts: Sequence[str] = (),
    videos: str = "",
    split: str = "",
    window: float = 0.0,
    top: int = 10,
    problems: Problems | None = None,
) -> list[Match]:
    """Ranked answers, best first.

    text: a query over videos: those at `videos` (a file, a folder, a prepared folder, a list), or else those of a split
    of the run's data (default its test split). window: seconds; longer videos are searched in windows of this length,
    half overlapping, and the answer names the window.
    video: a query over `texts`, or over the class names of the run's data where there are none: a file.
    problems: what could not be read, and words that mean nothing to the run, are added to it.

    Raises:
      VtjaxError: neither or both of text and video, nothing to search, or files that cannot be read.
    """
    if bool(text.strip()) == bool(video):
        raise VtjaxError("give one query: text=... (over videos) or video=... (over texts)")
    if top < 1 or window < 0:
        raise VtjaxError(f"top={top}, window={window}: at least one answer, and no negative length, can be asked for")
    problems = Problems() if problems is None else problems
    embedder = open_embedder(run.experiment.method, run.work / "assets")
    _check_words(embedder, [text] if text else list(texts), problems)
    if text:
        rows = _searched(run, embedder, videos, split, window, problems)
        return _videos_for(run, embedder, text, rows, top, problems)
    return _texts_for(run, embedder, video, list(texts), top)


def _check_words(embedder: Embedder, texts: list[str], problems: Problems) -> None:
    """A vocabulary of words gives any sentence an embedding, one without a known word a meaningless one."""
    for text, missing in unknown_words(embedder.tokenizer, texts).items():
        if len(missing) == len([w for w in words(text) if w[0].isalnum()]):
            known = sorted(embedder.tokenizer.vocabulary, key=len)[-8:]
            raise VtjaxError(
                f"{text!r}: this run has learnt none of its words; it knows the "
                f"{len(embedder.tokenizer.vocabulary)} of its training texts ({', '.join(known)}, ...). A run from "
                "published weights takes any text: configs/clip.py:finetune"
            )
        problems.add(f"{', '.join(missing)} in {text!r}", "words that this run has not learnt")


def _searched(run: Any, embedder: Embedder, videos: str, split: str, window: float, problems: Problems) -> data.Rows:
    if videos:
        return windows(open_source(videos, problems), window, problems)
    own = _own(run, embedder)
    return own.rows(split or run.experiment.method.data.test_split)


def _own(run: Any, embedder: Embedder) -> data.Videos:
    cache = cache_folder(run.experiment, run.work)
    return data.open_videos(run.experiment.method, embedder.sizes.vision.image_size, cache)


def _videos_for(
    run: Any, embedder: Embedder, text: str, rows: data.Rows, top: int, problems: Problems
) -> list[Match]:
    embeddings, _, kept = embedder.videos(run.params, rows, lambda error: problems.add(error.where, error.reason))
    scores = embeddings @ embedder.texts(run.params, [text])[0]
    order = np.argsort(-scores, kind="stable")[:top]
    return [_match(rows, kept[i], float(scores[i])) for i in order]


def _match(rows: data.Rows, index: int, score: float) -> Match:
    row = rows.rows[index]
    record = rows.source.record(row.index)
    name = str(record.path) if record.path is not None else record.id
    start, end = row.span or record.span or (None, None)
    return Match(name, score, row.texts[0] if row.texts else "", start, end, rows[index])


def _texts_for(run: Any, embedder: Embedder, video: str, texts: list[str], top: int) -> list[Match]:
    handle = find_video(video)
    if texts:
        names, rows = texts, embedder.texts(run.params, texts)
    else:
        classes = _own(run, embedder).classes
        if classes is None:
            raise VtjaxError("a video query needs texts to rank: the run's data has no class names")
        names, rows = list(classes.names), embedder.classes(run.params, classes)
    embeddings, _ = embedder.embed_clips(run.params, [embedder.frames(handle)])
    scores = rows @ embeddings[0]
    return [Match("", float(scores[i]), names[i]) for i in np.argsort(-scores, kind="stable")[:top]]


def find_video(path: str) -> VideoHandle:
    """The clip of a video query. Raises VtjaxError where there is no such file or it cannot be read."""
    if not pathlib.Path(path).is_file():
        raise VtjaxError(f"--video={path}: no such file")
    return open_source(path, Problems())[0]


def define_flags() -> None:
    """Flags of `python -m vtjax.predict` for this method."""
    from absl import flags

    flags.DEFINE_string("text", "", "Sentence to search videos with.")
    flags.DEFINE_string("video", "", "Video file to search sentences with.")
    flags.DEFINE_string("texts", "", "File with one sentence a line, for --video; default the run's class names.")
    flags.DEFINE_string("videos", "", "Video, folder of videos, prepared folder or list; default the test split.")
    flags.DEFINE_string("split", "", "Split of the run's own data to search; default its test split.")
    flags.DEFINE_float("window", 0.0, "Search longer videos in windows of so many seconds; 0 takes each as one.", 0)
    flags.DEFINE_integer("top", 10, "Number of answers.", lower_bound=1)


def command(run: Any, flags: Any, output: pathlib.Path) -> int:
    """One query from the command line: prints the ranking, writes OUTPUT.json and OUTPUT.html."""
    problems = Problems()
    texts = _lines(flags.texts) if flags.texts else []
    found = predict(
        run, text=flags.text, video=flags.video, texts=texts, videos=flags.videos, split=flags.split,
        window=flags.window, top=flags.top, problems=problems,
    )  # fmt: skip
    for place, match in enumerate(found, 1):
        line = "  ".join(part for part in (match.name, _times(match), match.text) if part)
        print(f"{place:3d}  {match.score:+.3f}  {line}")
    if len(problems):
        print(problems.report())
    answers = [{"rank": i, **m.to_json()} for i, m in enumerate(found, 1)]
    left_out = [{"where": p.where, "reason": p.reason} for p in problems.items]
    record = {"query": flags.text or flags.video, "score": "cosine", "answers": answers, "left_out": left_out}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output.with_suffix(".json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    path = query_report(run, flags.text, flags.video, found, problems, output.with_suffix(".html"))
    print(f"\nwritten: {output.with_suffix('.json')}, {path}")
    return 0


def query_report(
    run: Any, text: str, video: str, found: Sequence[Match], problems: Problems, path: pathlib.Path
) -> pathlib.Path:
    """Writes the page of one query and returns its path."""
    embedder = open_embedder(run.experiment.method, run.work / "assets")
    kind = "Sentence" if text else "Video"
    facts = {"model": str(run.work)}
    page = Page(text or pathlib.Path(video).name, f"{kind} query, ranked by cosine similarity", facts)
    if len(problems):
        page.text(problems.report(), cls="lead")
    if video:
        page.section("The video").add(strip(embedder, find_video(video)))
    page.section(f"{len(found)} best answers" if len(found) != 1 else "The best answer")
    for place, match in enumerate(found, 1):
        head = [element("span", match.name, cls="name") if match.name else ""]
        head += [element("span", part, cls="words") for part in (_times(match), match.text) if part]
        page.add(ranked(place, match.score, head, embedder, match.handle))
    return page.save(path)


def _times(match: Match) -> str:
    return "" if match.start is None else f"{match.start:.1f}\u2013{match.end:.1f} s"


def _lines(path: str) -> list[str]:
    file = pathlib.Path(path)
    if not file.is_file():
        raise VtjaxError(f"--texts={path}: no such file")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    empty = [i for i, line in enumerate(lines, 1) if not line]
    if empty:
        raise VtjaxError(f"{path}:{empty[0]}: empty line; one sentence a line is expected")
    return lines
