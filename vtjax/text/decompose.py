"""Events of captions through a language model: the question, and the strict reading of its answer.

CAR (arXiv 2407.15408) asks GPT-3.5; its prompt is not published (docs/methods/car.md), this one is ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from vtjax.errors import Problems, VtjaxError
from vtjax.text.events import checked_events
from vtjax.text.generator import Prompt, TextGenerator

TASK = "events"
SYSTEM = (
    "You receive one caption of a human motion. List the separate events it describes, in the order in which they "
    "happen, which may differ from the order in which they are written: resolve words such as before and after. "
    "Write each event as a complete sentence with the same subject, word for word, in all of them. Actions that happen "
    "at the same time (while, as, at the same time) stay together in one event. Keep every detail of manner, "
    "direction, count and body side; add nothing, and leave out words that only tell the order. A caption with a "
    'single action gives one event. Answer with JSON only, in the form {"events": ["...", "..."]}.'
)


def events_prompt(caption: str, where: str = "") -> Prompt:
    """The question for one caption. where: names the caption in messages."""
    return Prompt(TASK, f"Caption: {caption.strip()}", SYSTEM, where)


def parse_events(response: str) -> list[object]:
    """The list of an answer {"events": [...]}; VtjaxError when it is anything else (no text around it, no fences)."""
    try:
        answer = json.loads(response)
    except ValueError as error:
        raise VtjaxError(f'the answer is not JSON: {response[:80]!r}; expected {{"events": ["...", ...]}}') from error
    if not isinstance(answer, dict) or set(answer) != {"events"} or not isinstance(answer["events"], list):
        raise VtjaxError(f'the answer is not {{"events": ["...", ...]}}: {response[:80]!r}')
    return answer["events"]


def decompose(
    captions: Sequence[str], generator: TextGenerator, problems: Problems, where: Sequence[str] | None = None
) -> list[list[str]]:
    """Asks `generator` for the events of each caption, in chronological order.

    An answer that is not strict JSON, or whose events are not valid for the caption, is counted in `problems`, and
    [caption] stands in for it. where: a name for each caption, for messages; without it the captions' positions.

    Raises:
      VtjaxError: an empty caption, and what the generator raises.
    """
    places = list(where) if where is not None else [f"caption {i}" for i in range(len(captions))]
    if len(places) != len(captions):
        raise VtjaxError(f"where has {len(places)} names for {len(captions)} captions")
    for place, caption in zip(places, captions, strict=True):
        if not isinstance(caption, str) or not caption.strip():
            raise VtjaxError(f"{place}: the caption is empty; expected a sentence that describes what happens")
    prompts = [events_prompt(caption, place) for place, caption in zip(places, captions, strict=True)]
    result = []
    for place, caption, response in zip(places, captions, generator(prompts), strict=True):
        try:
            events = parse_events(response)
        except VtjaxError:
            problems.add(place, "the answer is not the JSON asked for: the whole caption is kept as one event")
            result.append([caption])
            continue
        result.append(checked_events(caption, events, problems, place))
    return result
