"""Captions of a window and of its last frame, by the recipe of ActivityNet and by that of InternVid."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Sequence

import numpy as np

from vtjax.errors import VtjaxError
from vtjax.methods.ovoad.config import OvoadConfig
from vtjax.text import inflect
from vtjax.text.tokenizer import words

NOTHING = "this is background"  # of a window without caption
FILLER = "there is background"  # beside a caption whose verb is not known


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Everyday verbs beside those of vtjax.text.inflect.
_VERBS = _words(
    "add arrange assemble attach bake bathe beat bite blow boil break build burn button buy call chase check chop "
    "climb close color comb connect cook count cover cry cut decorate dig dip dress dry dump dust empty feed fill "
    "film fish fix float fly fold fry garden grate grind hammer hand hang heat help hide hit hug hunt inspect "
    "install iron jiggle join kiss knead knit laugh lay learn light listen load lock measure melt mince mow nail "
    "navigate observe pack paint pat peel pet photograph plant pluck polish pound pour practice prepare press "
    "print race rattle read ride rinse sail saw scrape scream scrub seal serve sew shave shoot shop shout shovel "
    "show sing skate sketch ski slice smell smile smoke sort speak spray sprinkle squeeze stack steer stitch "
    "strum study surf swallow sweep swim swirl taste teach tear test tie tip trim type uncover unpack unstack "
    "vacuum visit wear weave weigh wrap yell zip"
)
_AUXILIARIES = _words("be have do")
_SKIPPED = _words("a an the his her their its some my your this that these those what up down off out away in")
_ENDS = _words(
    "to on onto into from with over under at of for by and or while as then across through inside around along off out "
    "upon near behind before after in against rightwards leftwards is are was were has have be"
)


class VerbPrompts:
    """Finds the verb of a sentence and its object, in place of spaCy's parse with a list of verbs.

    verbs: file of base forms, one a line; "" for the list kept here and that of vtjax.text.inflect.
    """

    def __init__(self, verbs: str = ""):
        self.verbs: frozenset[str] | None = None
        if verbs:
            try:
                lines = pathlib.Path(verbs).read_text(encoding="utf-8").split()
            except OSError as error:
                raise VtjaxError(f"config.method.data.verbs={verbs}: {error.strerror}") from None
            self.verbs = frozenset(line.lower() for line in lines)

    def _known(self, verb: str | None) -> bool:
        if verb is None or verb in _AUXILIARIES:
            return False
        return verb in self.verbs if self.verbs is not None else verb in _VERBS or inflect.is_base(verb)

    def base(self, word: str) -> str | None:
        """Base form of a word that is a form of a listed verb, else None."""
        stem = word[:-2] if word.endswith("es") else word[:-1]
        forms = [word, inflect.base_of_third(word), inflect.base_of_gerund(word)]
        forms += [stem, word[:-1]] if word.endswith("s") else []
        return next((form for form in forms if self._known(form)), None)

    def phrase(self, sentence: str) -> str | None:
        """"a hand pushes the red block to the right" -> "pushing block"; None where no listed verb is found.

        The object is the last word before the next preposition, conjunction or sign: the head of the noun phrase.
        """
        spoken = words(sentence)
        for i, word in enumerate(spoken):
            verb = self.base(word)
            # A base form after an article is a noun: "a box".
            if verb is None or (i and spoken[i - 1] in ("a", "an", "the") and verb == word):
                continue
            rest = spoken[i + 1 :]
            while rest and rest[0] in _SKIPPED:
                rest = rest[1:]
            noun = ""
            for other in rest:
                if other in _ENDS or not other[0].isalnum():
                    break
                noun = other
            return f"{inflect.gerund(verb)} {noun}".strip()
        return None


class CaptionRecipe:
    """Texts of windows; picklable, and a function of its arguments and the generator."""

    def __init__(self, config: OvoadConfig):
        self.extra, self.text, self.recipe = config.loss.extra, config.text, config.data.captions
        self.prompts = VerbPrompts(config.data.verbs)

    def __call__(
        self, spans: Sequence[Sequence[str]], frames: np.ndarray, rng: np.random.Generator
    ) -> tuple[list[str], str]:
        """The 1 + extra captions of a window and the caption of its last frame.

        spans: wordings of every annotated part of the video (of captions="labels": one, the class name).
        frames: int [n], for every frame of the window the span that it lies in, or -1.
        """
        # One wording of a span a draw, so that it is the same caption in all of the window.
        chosen = {int(s): spans[s][int(rng.integers(len(spans[s])))] for s in np.unique(frames[frames >= 0])}
        said = [chosen[int(s)] for s in frames if s >= 0]
        last = chosen[int(frames[-1])] if frames[-1] >= 0 else None
        if self.recipe == "labels":
            return self._labels(said, last, rng)
        return self._sentences(said, rng), last or NOTHING

    def _labels(self, said: list[str], last: str | None, rng: np.random.Generator) -> tuple[list[str], str]:
        """ActivityNet: the most frequent class, then classes of the window at random, all in random templates."""
        names = [self.text.background] * (1 + self.extra)
        if said:
            names = [_most_frequent(said)]
            names += [_pick(sorted(set(said)), rng) for _ in range(self.extra)]
        return [self._prompt(name, rng) for name in names], self._prompt(last or self.text.background, rng)

    def _sentences(self, said: list[str], rng: np.random.Generator) -> list[str]:
        """InternVid: distinct captions, the most frequent first; what is missing is made of their verbs and nouns."""
        if not said:
            return [NOTHING] * (1 + self.extra)
        first = _most_frequent(said)
        texts = [first, *(text for text in dict.fromkeys(said) if text != first)][: 1 + self.extra]
        captions = list(texts)
        while len(texts) < 1 + self.extra:
            caption = _pick(captions, rng)
            phrase = self.prompts.phrase(caption)
            texts.append(_pick([*captions, FILLER], rng) if phrase is None else self._prompt(phrase, rng))
        return texts

    def _prompt(self, name: str, rng: np.random.Generator) -> str:
        return _pick(self.text.train_templates, rng).replace("{}", name.replace("_", " "))


def _pick(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[int(rng.integers(len(items)))]


def _most_frequent(items: Sequence[str]) -> str:
    """The first of the most frequent."""
    return collections.Counter(items).most_common(1)[0][0]
