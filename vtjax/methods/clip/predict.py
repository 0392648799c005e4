"""Search: a sentence over videos, or a video over sentences, ranked by cosine similarity."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from vtjax.arguments import LinesOf
from vtjax.data.video.source import VideoHandle
from vtjax.errors import Problems, VtjaxError
from vtjax.methods.clip import data
from vtjax.methods.clip.page import strip
from vtjax.methods.clip.text import check_words
from vtjax.report.answer import Answer, ranking
from vtjax.report.markup import element, ranked
from vtjax.report.page import Page


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


class Matches(list[Match]):
    """Answers, best first. left_out: videos that cannot be read, and words that mean nothing to the run."""

    def __init__(self, matches: Sequence[Match], left_out: Problems):
        super().__init__(matches)
        self.left_out = left_out


def predict(
    run: Any,
    *,
    text: str = "",
    video: str = "",
    texts: Annotated[Sequence[str], LinesOf("sentence")] = (),
    videos: str = "",
    split: str = "",
    window: float = 0.0,
    top: int = 10,
) -> Matches:
    """Ranks videos by a sentence, or sentences by a video, by cosine similarity, best first.

    Args:
      text: Query over videos: those at `videos`, or else those of a split of the run's data.
      video: Query over `texts`: a file.
      texts: what a video is compared with; default the class names of the run's data.
      videos: Video, folder of videos, prepared folder or list; default the split.
      split: Split of the run's data to search; default its test split.
      window: Search longer videos in windows of so many seconds, half overlapping; 0 takes each as one.
      top: Number of answers.

    Returns:
      At most `top` matches; a window is named by its start and end.

    Raises:
      VtjaxError: neither or both of text and video, nothing to search, or files that cannot be read.
    """
    if bool(text.strip()) == bool(video):
        raise VtjaxError("give one query: text=... (over videos) or video=... (over texts)")
    if top < 1 or window < 0:
        raise VtjaxError(f"top={top}, window={window}: at least one answer, and no negative length, can be asked for")
    model, params = run.model, run.params
    left_out = check_words(model.embedder.tokenizer, [text] if text else texts)
    if text:
        gallery = model.gallery(params, split, videos, window)
        left_out.items += gallery.unread.items
        scores = gallery.videos @ model.embedder.texts(params, [text])[0]
        return Matches([_match(gallery.rows, i, float(scores[i])) for i in _best(scores, top)], left_out)
    handle = find_video(video)
    if texts:
        names, rows = texts, model.embedder.texts(params, texts)
    else:
        if model.data.classes is None:
            raise VtjaxError("a video query needs texts to rank: the run's data has no class names")
        names, rows = model.data.classes.names, model.classes(params)
    embeddings, *_ = model.embedder.embed_clips(params, [model.embedder.frames(handle)])
    scores = rows @ embeddings[0]
    return Matches([Match("", float(scores[i]), names[i]) for i in _best(scores, top)], left_out)


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:count]


def _match(rows: data.Rows, index: int, score: float) -> Match:
    row = rows.rows[index]
    record = rows.source.record(row.index)
    name = str(record.path) if record.path is not None else record.id
    start, end = row.span or record.span or (None, None)
    return Match(name, score, row.texts[0] if row.texts else "", start, end, rows[index])


def find_video(path: str) -> VideoHandle:
    """The clip of a video query. Raises VtjaxError where there is no such file or it cannot be read."""
    if not pathlib.Path(path).is_file():
        raise VtjaxError(f"--video={path}: no such file")
    return data.open_source(path, Problems())[0]


def answer(run: Any, given: Mapping[str, Any], matches: Matches) -> Answer:
    """The ranking for a terminal, JSON, CSV and a page with the frames of every clip."""
    lines, header, rows = ranking(matches)
    if len(matches.left_out):
        lines.append(matches.left_out.report())
    record = {
        "query": given["text"] or given["video"],
        "score": "cosine",
        "answers": [{"rank": i, **match.to_json()} for i, match in enumerate(matches, 1)],
        "left_out": [dataclasses.asdict(problem) for problem in matches.left_out.items],
    }
    return Answer(lines, record, header, rows, query_page(run, given["text"], given["video"], matches))


def query_page(run: Any, text: str, video: str, matches: Matches) -> Page:
    """The page of one query."""
    embedder, kind = run.model.embedder, "Sentence" if text else "Video"
    facts = {"model": str(run.work)}
    page = Page(text or pathlib.Path(video).name, f"{kind} query, ranked by cosine similarity", facts)
    if len(matches.left_out):
        page.text(matches.left_out.report(), cls="lead")
    if video:
        page.section("The video").add(strip(embedder, find_video(video)))
    page.section(f"{len(matches)} best answers" if len(matches) != 1 else "The best answer")
    for place, match in enumerate(matches, 1):
        times = "" if match.start is None else f"{match.start:.1f}\u2013{match.end:.1f} s"
        head = [element("span", match.name, cls="name") if match.name else ""]
        head += [element("span", part, cls="words") for part in (times, match.text) if part]
        page.add(ranked(place, match.score, head, "" if match.handle is None else strip(embedder, match.handle)))
    return page
