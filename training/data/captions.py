"""Captions for images of a concept on a plain background, in English and Chinese.

Captions are a function of the state of a `random.Random`. The templates are training data: the
shipped weights and tokenizer learned from their exact words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.data.concepts import Concept

LANGUAGES = ("en", "zh")

SILENT_H = ("hour", "honest", "heir")
CONSONANT_VOWEL = ("uni", "use", "uk", "eu", "ewe", "one", "ufo")
SPELT_VOWEL = ("suv", "x-ray")
"""Prefixes, in lower case, whose sound decides between "a" and "an" against their first letter."""


@dataclass(frozen=True, slots=True)
class Colour:
    """A plain background: sRGB 0-255, and its names, the usual one first."""

    rgb: tuple[int, int, int]
    english: tuple[str, ...]
    chinese: tuple[str, ...]


COLOURS = (
    Colour((255, 255, 255), ("white", "plain white"), ("白色", "纯白色")),
    Colour((24, 24, 28), ("black", "pitch black"), ("黑色", "纯黑色")),
    Colour((150, 152, 156), ("gray", "grey"), ("灰色",)),
    Colour((222, 56, 56), ("red", "bright red"), ("红色", "大红色")),
    Colour((245, 142, 40), ("orange",), ("橙色", "橘色")),
    Colour((252, 212, 64), ("yellow", "bright yellow"), ("黄色", "明黄色")),
    Colour((70, 168, 84), ("green", "grass green"), ("绿色", "草绿色")),
    Colour((52, 188, 180), ("teal", "turquoise"), ("青色", "蓝绿色")),
    Colour((126, 200, 245), ("light blue", "sky blue"), ("浅蓝色", "天蓝色")),
    Colour((48, 98, 216), ("blue", "royal blue"), ("蓝色", "宝蓝色")),
    Colour((136, 76, 192), ("purple", "violet"), ("紫色",)),
    Colour((246, 160, 192), ("pink", "light pink"), ("粉色", "粉红色")),
    Colour((132, 88, 56), ("brown",), ("棕色", "褐色")),
    Colour((244, 230, 202), ("beige", "cream"), ("米色", "米黄色")),
)

ENGLISH = (
    "{a} on {a_colour} background",
    "{a} on {a_colour} background",
    "{a} in front of {a_colour} background",
    "{a}, {colour} background",
    "{name}, {colour} background",
    "{colour} background, {a}",
    "{a} against {a_colour} backdrop",
    "a picture of {a} on {colour}",
    "a drawing of {a} on {a_colour} background",
    "an illustration of {a} with {a_colour} background",
    "draw {a} on {a_colour} background",
    "{a}, centered, {colour} background",
)
CHINESE = (
    "{colour}背景上的{name}",
    "{colour}背景上的{name}",
    "{colour}背景上有{one}",
    "{one}，{colour}背景",
    "{name}，{colour}背景",
    "{colour}背景，{name}",
    "一张{name}的图片，{colour}背景",
    "画{one}，背景是{colour}",
    "{name}的插图，背景为{colour}",
    "{colour}背景前的{name}",
)
BARE_ENGLISH = ("{name}", "{a}", "a picture of {a}", "draw {a}")
BARE_CHINESE = ("{name}", "{one}", "{name}的图片", "画{one}")
"""Templates that leave the background open; the image then has any colour."""

ENGLISH_ADJECTIVES = (
    *("cute", "beautiful", "little", "small", "big", "shiny", "pretty", "single", "simple"),
    *("colorful", "detailed", "lovely", "nice", "funny", "realistic", "stylized"),
)
CHINESE_ADJECTIVES = (
    "可爱的",
    "美丽的",
    "小小的",
    "漂亮的",
    "精致的",
    "简单的",
    "大大的",
    "闪亮的",
)
ENGLISH_ENDINGS = (
    *(", highly detailed", ", soft light", ", high quality", ", 3d render", ", digital art"),
    *(", sharp", ", resources lighting", ", cartoon style", ", minimal", ", 4k"),
)
CHINESE_ENDINGS = ("，高清", "，细节丰富", "，柔和的光线", "，卡通风格", "，插画", "，高质量")
"""Phrases that users add and that have no effect here: the model learns to ignore them."""

TAG_SHARE = 0.25
"""Share of captions that use another name than the usual one, where there is one."""
ADJECTIVE_SHARE = 0.15
ENDING_SHARE = 0.15


def article(word: str) -> str:
    """Returns "a" or "an", by the word's sound: "an hourglass", "a unicorn", "an SUV"."""
    lower = word.lower()
    if lower.startswith(SILENT_H + SPELT_VOWEL):
        return "an"
    if lower.startswith(CONSONANT_VOWEL) and not lower.startswith("onion"):
        return "a"
    return "an" if lower[0] in "aeiou" else "a"


def with_article(name: str, kind: str) -> str:
    """Returns the name as a phrase: "a fox", "the Milky Way", "grapes"; kinds as in `Concept`."""
    if kind == "some":
        return name
    return f"the {name}" if kind == "the" else f"{article(name)} {name}"


def words() -> list[str]:
    """Returns the words of captions other than concepts and colours, for the tokenizer."""
    templates = ENGLISH + BARE_ENGLISH + CHINESE + BARE_CHINESE
    blanks = {"a": " ", "name": " ", "colour": " ", "a_colour": " ", "one": " "}
    parts = [word for line in templates for word in line.format(**blanks).split()]
    return [
        *(part.strip(",，") for part in parts if part.strip(",，")),
        *ENGLISH_ADJECTIVES,
        *CHINESE_ADJECTIVES,
        *(ending.strip(",， ") for ending in ENGLISH_ENDINGS + CHINESE_ENDINGS),
    ]


def _perhaps(choices: tuple[str, ...], share: float, rng: random.Random) -> str:
    return rng.choice(choices) if rng.random() < share else ""


def _endings(choices: tuple[str, ...], rng: random.Random) -> str:
    """Returns usually nothing, sometimes one phrase, rarely several in a row."""
    if rng.random() >= ENDING_SHARE:
        return ""
    return "".join(rng.sample(choices, rng.choice((1, 1, 2, 4))))


def _name(usual: str, tags: tuple[str, ...], rng: random.Random) -> str:
    other = rng.random() < TAG_SHARE
    return rng.choice(tags) if tags and other else usual


def caption(concept: Concept, colour: Colour | None, language: str, rng: random.Random) -> str:
    """Returns a caption of one concept.

    Args:
        concept: The concept.
        colour: The background; None leaves it open.
        language: One of LANGUAGES.
        rng: The only source of chance; equal states give equal captions.

    Raises:
        ValueError: The language is not in LANGUAGES.
    """
    if language == "en":
        name = _name(concept.english, concept.english_tags, rng)
        adjective = _perhaps(ENGLISH_ADJECTIVES, ADJECTIVE_SHARE, rng)
        name = f"{adjective} {name}" if adjective else name
        templates: tuple[str, ...] = BARE_ENGLISH if colour is None else ENGLISH
        shade = rng.choice(colour.english) if colour else ""
        text = rng.choice(templates).format(
            name=name,
            a=with_article(name, concept.kind),
            colour=shade,
            a_colour=with_article(shade, "one") if shade else "",
        )
        return text + _endings(ENGLISH_ENDINGS, rng)
    if language == "zh":
        name = _name(concept.chinese, concept.chinese_tags, rng)
        templates = BARE_CHINESE if colour is None else CHINESE
        # No measure word with a name that already contains one ("一杯牛奶").
        counted = concept.measure and not name.startswith("一")
        name = _perhaps(CHINESE_ADJECTIVES, ADJECTIVE_SHARE, rng) + name
        text = rng.choice(templates).format(
            name=name,
            one=f"一{concept.measure}{name}" if counted else name,
            colour=rng.choice(colour.chinese) if colour else "",
        )
        return text + _endings(CHINESE_ENDINGS, rng)
    raise ValueError(f"There are no captions in {language!r}; choose one of {LANGUAGES}.")


def examples(concept: Concept, count: int, seed: int) -> list[tuple[str, Colour | None, str]]:
    """Returns `count` tuples (language, background, caption); a tenth leave the background open."""
    rng = random.Random(f"{seed}:{concept.code}")
    made = []
    for number in range(count):
        language = LANGUAGES[number % len(LANGUAGES)]
        colour = None if rng.random() < 0.1 else rng.choice(COLOURS)
        made.append((language, colour, caption(concept, colour, language, rng)))
    return made
