"""Speech over a task video: about steps but late or early, about nothing shown, and silent about some steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtjax.worlds.workshop_captions import describe, paraphrase
from vtjax.worlds.workshop_types import Caption, Entity, Narration, Segment, Settings, Step

SPOKEN = (
    "now I {v:base}",
    "next we are {v:gerund}",
    "and then you just {v:base}",
    "so let us {v:base}",
    "here you can see me {v:gerund}",
    "what you want to do is {v:base}",
)
LEFT_OUT = (
    "usually you would also {v:base}",
    "some people {v:base} but I will not",
    "there is no need to {v:base} today",
)
IRRELEVANT = (
    "hello everyone and welcome back to my channel",
    "if you like this video do not forget to subscribe",
    "I bought this bench at a flea market last year",
    "let me know in the comments what you think",
    "my neighbour asked me about this the other day",
    "sorry about the noise outside",
    "it has been raining here all week",
    "thank you so much for watching",
    "this video is sponsored by our friends at the tool shop",
    "I think that looks really nice",
    "you can do this with your children too",
    "I had a coffee just before we started",
)
WORDS_PER_SECOND = 2.6


def narrate(
    rng: np.random.Generator,
    script: Sequence[Step],
    segments: Sequence[Segment],
    entities: Sequence[Entity],
    duration: float,
    settings: Settings,
) -> tuple[Narration, ...]:
    """Sentences sorted by start, one speaker: each begins when it is due or when the one before has ended.

    Every sentence ends by `duration`; those due too late are moved forward, so the last ones may overlap.
    """
    due: list[tuple[float, Caption, int, int]] = []
    for number, segment in enumerate(segments):
        if rng.random() >= settings.unspoken:
            caption = describe(segment.verb, segment.objects, entities, paraphrase(rng, SPOKEN))
            due.append((segment.start + rng.normal(-0.3, settings.narration_shift), caption, segment.step, number))
    for position, left in enumerate(script):
        if not left.performed and rng.random() < 0.4:
            caption = describe(left.verb, left.objects, entities, paraphrase(rng, LEFT_OUT))
            due.append((rng.uniform(0, duration), caption, position, -1))
    for _ in range(int(rng.poisson(settings.irrelevant * len(segments)))):
        due.append((rng.uniform(0, duration), Caption(IRRELEVANT[rng.integers(len(IRRELEVANT))], ()), -1, -1))
    spoken, clock = [], 0.0
    for when, caption, step, place in sorted(due, key=lambda item: item[0]):
        length = min((1 + caption.text.count(" ")) / WORDS_PER_SECOND, duration)
        start = min(max(when, clock), duration - length)
        clock = start + length
        spoken.append(Narration(caption, float(start), float(min(clock, duration)), step, place))
    return tuple(sorted(spoken, key=lambda narration: narration.start))
