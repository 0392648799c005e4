"""English verb forms, as far as captions of motion need them: third person, -ing form, and back to the base form.

Rule-based with a list of common motion verbs, so that "raising" becomes "raise" and "hopping" becomes "hop". A verb
outside the list goes by spelling rules, which are right for most but not all verbs.
"""

from __future__ import annotations

_VERBS = frozenset(
    "accelerate act adjust aim alternate appear assume balance bat begin bend block bob bounce bow box bring brush "
    "bump carry cartwheel cast catch change circle clap clean climb clutch come complete continue crawl cross crouch "
    "dance descend dip do dodge drag draw drink drive drop duck end eat enter exercise extend face fall flap flex flip "
    "fold follow get give go grab gesture gyrate hang hit hold hop hug hunch hurry imitate jab jog juggle jump keep "
    "kick kneel knock land lay lead lean leap leave let lie lift limp look lower lunge make manage march massage mimic "
    "mime mix move nod open operate pace pass pause perform pick pivot place play point pose pretend proceed pull "
    "pump punch push put raise reach receive relax release remain repeat rest retreat return reverse rise rock roll "
    "rotate rub run say scoot scratch scrub set shake shift shove show shuffle side-step sidestep sit skip slap "
    "slide slow sneak spin spread sprint squat stagger stamp stand start stay step stir stoop stop straighten stretch "
    "stride stroll strike stumble sway swim swing swivel take talk tap teeter throw tilt toss touch trace travel trip "
    "trot try tumble turn twirl twist use wait walk wander warm wash watch wave wiggle wipe wobble work write".split()
)
_THIRD = {"be": "is", "have": "has", "do": "does", "go": "goes"}
_BASE_OF_THIRD = {third: base for base, third in _THIRD.items()}
_GERUND = {"be": "being", "lie": "lying", "die": "dying", "tie": "tying"}
_BASE_OF_GERUND = {gerund: base for base, gerund in _GERUND.items()}
_VOWELS = "aeiou"


def third_person(verb: str) -> str:
    """"wave" -> "waves", "reach" -> "reaches", "carry" -> "carries". verb: base form, lower case."""
    if verb in _THIRD:
        return _THIRD[verb]
    if verb.endswith(("s", "x", "z", "ch", "sh")):
        return verb + "es"
    if verb.endswith("y") and verb[-2:-1] not in _VOWELS:
        return verb[:-1] + "ies"
    return verb + "s"


def gerund(verb: str) -> str:
    """"wave" -> "waving", "hop" -> "hopping", "lie" -> "lying". verb: base form, lower case."""
    if verb in _GERUND:
        return _GERUND[verb]
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        return verb[:-1] + "ing"
    if _doubles(verb):
        return verb + verb[-1] + "ing"
    return verb + "ing"


def _doubles(verb: str) -> bool:
    """One syllable that ends in consonant, vowel, consonant ("hop", "squat"): its last letter is doubled."""
    if len(verb) < 3 or verb[-1] in _VOWELS + "wxy" or verb[-2] not in _VOWELS:
        return False
    one_vowel = verb[-3] not in _VOWELS or verb[-3:-1] == "ui" or (verb[-4:-2] == "qu")
    return one_vowel and sum(letter in _VOWELS for letter in verb.replace("qu", "q")) == 1


def base_of_gerund(word: str) -> str | None:
    """"waving" -> "wave"; None when `word` is not a verb's -ing form ("thing", "wing"). word: lower case."""
    if word in _BASE_OF_GERUND:
        return _BASE_OF_GERUND[word]
    stem = word[:-3]
    if not word.endswith("ing") or not any(letter in "aeiouy" for letter in stem) or word.endswith("thing"):
        return None
    undoubled = stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem
    for candidate in (stem, stem + "e", undoubled):
        if candidate in _VERBS:
            return candidate
    if undoubled != stem and stem[-1] not in "lsfz":
        return undoubled
    return stem + "e" if stem[-1] in "cgsvuz" and stem[-2:] not in ("ng", "ss") else stem


def base_of_third(word: str) -> str | None:
    """"waves" -> "wave"; None when `word` is not the third person of a listed verb. word: lower case."""
    if word in _BASE_OF_THIRD:
        return _BASE_OF_THIRD[word]
    for candidate in (word[:-1], word[:-2], word[:-3] + "y"):
        if candidate in _VERBS and third_person(candidate) == word:
            return candidate
    return None


def is_base(word: str) -> bool:
    """Whether `word` is the base form of a listed motion verb. word: lower case."""
    return word in _VERBS or word in _THIRD
