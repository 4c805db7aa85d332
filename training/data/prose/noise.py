"""How people type: case, punctuation, and single mistyped letters."""

from __future__ import annotations

import random

from training.data.prose.drawing import pick

TYPO_SHARE = 0.04
"""Share of long English words with one mistyped letter."""
TYPO_LETTERS = 5
"""Letters from which on a word is long."""
NEIGHBOURS = {
    **{"q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij"},
    **{"i": "uok", "o": "ipl", "p": "ol", "a": "qsz", "s": "adwx", "d": "sfec", "f": "dgrv"},
    **{"g": "fhtb", "h": "gjyn", "j": "hkum", "k": "jlim", "l": "kop", "z": "asx", "x": "zcsd"},
    **{"c": "xvdf", "v": "cbfg", "b": "vngh", "n": "bmhj", "m": "njk"},
}
"""Keys next to a key."""

SENTENCE, UPPER, TITLE, LOWER = 0.3, 0.04, 0.05, 0.25
"""Shares of captions that start with a capital, or are all capitals, capitalized, or lower case.
The rest keeps the case of names."""
STOPS = (".", ".", ".", ".", ".", "!", "!!", "...", " ")
CHINESE_STOPS = ("。", "。", "。", "。", "！", "～", "…", "!", " ")
STOP_SHARE, SENTENCE_STOP_SHARE = 0.06, 0.5
"""Shares of captions with a stop at the end: in general, and of those with a capital."""
NO_COMMA_SHARE = 0.03
PLAIN_COMMA_SHARE = 0.1
"""Shares of English captions typed without commas, and of Chinese ones typed with commas of the
Latin keyboard, or spaces for them."""


def mistyped(word: str, rng: random.Random) -> str:
    """Returns the word with two letters swapped, or one dropped, doubled, or hit beside.

    The first letter stays, as it mostly does.
    """
    at = 1 + int(rng.random() * (len(word) - 1))
    way = int(rng.random() * 4)
    if way == 0 and at + 1 < len(word):
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if way == 1:
        return word[:at] + word[at + 1 :]
    if way == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + pick(rng, NEIGHBOURS.get(word[at].lower(), word[at])) + word[at + 1 :]


def typed(text: str, rng: random.Random) -> str:
    """Returns an English caption as it may be typed."""
    words = text.split(" ")
    for index, word in enumerate(words):
        if len(word) >= TYPO_LETTERS and rng.random() < TYPO_SHARE and word.isalpha():
            words[index] = mistyped(word, rng)
    text = " ".join(words)
    chance = rng.random()
    stops = STOP_SHARE
    if chance < SENTENCE or ". " in text:
        text = ". ".join([part[:1].upper() + part[1:] for part in text.split(". ")])
        stops = SENTENCE_STOP_SHARE
    elif chance < SENTENCE + UPPER:
        text = text.upper()
        stops = SENTENCE_STOP_SHARE
    elif chance < SENTENCE + UPPER + TITLE:
        text = " ".join([word[:1].upper() + word[1:] for word in text.split(" ")])
    elif chance < SENTENCE + UPPER + TITLE + LOWER:
        text = text.lower()
    if rng.random() < NO_COMMA_SHARE:
        text = text.replace(",", "")
    return text + pick(rng, STOPS) if rng.random() < stops and text[-1:] not in "?!." else text


def typed_chinese(text: str, rng: random.Random) -> str:
    """Returns a Chinese caption as it may be typed."""
    if rng.random() < PLAIN_COMMA_SHARE:
        text = text.replace("，", pick(rng, (",", " ", ", ")))
    stops = SENTENCE_STOP_SHARE if "。" in text else STOP_SHARE
    last = text[-1:]
    return text + pick(rng, CHINESE_STOPS) if rng.random() < stops and last not in "？?！" else text
