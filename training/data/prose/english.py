"""English captions: the slots of the templates in templates.en.tsv, filled for one description."""

from __future__ import annotations

import random
from collections.abc import Callable

from training.data.captions import COLOURS, with_article
from training.data.prose.description import Description, Subject
from training.data.prose.drawing import pick
from training.data.prose.nouns import article_kind, is_plural, scene_phrase
from training.data.prose.paints import PAINTS
from training.data.prose.plurals import plural
from training.data.prose.speech import AIR, UNDER_ROOF, Names, Speech, weighted
from training.data.prose.templates import Lists

NUMBERS = {
    2: ("two", "2", "two", "2", "a pair of", "a couple of", "2x"),
    3: ("three", "3", "three", "3", "a trio of", "a group of three", "3x"),
    4: ("four", "4", "four", "4", "a group of four", "4x"),
}
BARE_NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
TIMES = ("{0} x{1}", "{0}, {1} of them", "{0} ({1})")
SOME = ("some", "a few", "several", "many")
TIMES_SHARE, SOME_SHARE = 0.05, 0.05
"""Shares of numbers behind the noun, and of plurals whose number is left open."""
ONE = ("one", "1", "a single")
THE = ("the", "the", "the", "my", "our", "this")
ONE_SHARE, THE_SHARE = 0.05, 0.07

SYNTAX = {
    **{"bare": 12, "phrase": 22, "ask": 15, "tags": 16, "sentence": 18, "headline": 3},
    **{"prose": 14},
}

NAME_SHARE = 0.7
"""Share of bare captions that are the name alone."""
USUAL_SHARE = 0.25
"""Share of plain grounds that are named by the usual words: "on a white background"."""
ADJECTIVE_SHARE = 0.18
AFTER_SHARE = 0.15
"""Shares of noun phrases with a meaningless adjective, and with the colour or size behind."""
LIT_SHARE = 0.35
"""Share of scenes with a light that begin with it: "sunset over the mountains"."""
STORY_SHARE = 0.15
SENTENCES_SHARE = 0.3
"""Shares of long captions in sentences from the start, and only after the first."""
PROSE_WORDS = (28, 66)
"""Number of words, least and most, for which long captions aim."""
MOST_PHRASES = 18


class English(Speech):
    """One English caption in the making."""

    NAMES, PLACES, COMMA = "english", "english_places", ", "
    OPEN = weighted(SYNTAX | {"bare": 45})
    GROUND = weighted(SYNTAX | {"product": 30})
    SETTING = weighted(SYNTAX | {"scened": 16})

    def __init__(
        self, description: Description, names: Names, lists: Lists, rng: random.Random
    ) -> None:
        super().__init__(description, names, lists, rng)
        self.nouns = [names(subject) for subject in description.subjects]

    def caption(self) -> str:
        """Returns the caption, uncapitalized and without a full stop, before typing mistakes."""
        shown = self.description
        if not shown.subjects:
            return self.scene_only()
        kind = self.kind(general=shown.side is not None)
        if kind in ("scened", "product"):
            return self.ended(self.say(kind))
        placed = self.placed() or shown.side is not None
        which = "placed" if placed else "open"
        if kind == "prose":
            story = placed and self.rng.random() < STORY_SHARE
            return self.long(self.say("story" if story else f"core {which}"))
        if kind == "bare" and not placed and self.rng.random() < NAME_SHARE:
            return self._n()
        text = self.say(f"{kind} {which}")
        return text if kind == "tags" else self.ended(text)

    def lit_scene(self) -> str | None:
        """A scene that begins with its light: "sunset over the mountains"; None elsewhere."""
        shown = self.description
        if shown.light is None or shown.setting in UNDER_ROOF or self.rng.random() > LIT_SHARE:
            return None
        return self.say(f"scene {shown.light}")

    def long(self, core: str) -> str:
        """The core amid many phrases, or before sentences, that say nothing of what is seen."""
        rng = self.rng
        least, most = PROSE_WORDS
        wanted = least + int(rng.random() * (most - least)) - core.count(" ")
        sentences = ". " in core or rng.random() < SENTENCES_SHARE
        joint, texts = (". ", self.lists["extra"]) if sentences else (", ", self.lists["fragment"])
        more = []
        for text in rng.sample(texts, min(len(texts), MOST_PHRASES)):
            more.append(text)
            wanted -= text.count(" ") + 1
            if wanted <= 0:
                break
        start = 0 if sentences or rng.random() < 0.8 else pick(rng, (1, 2, 3))
        return joint.join((*more[:start], core, *more[start:]))

    # Subjects.

    def _noun(self, index: int) -> tuple[str, str]:
        """The noun with its adjectives, in the plural where there are several, and its kind."""
        rng, subject, name = self.rng, self.description.subjects[index], self.nouns[index]
        kind = article_kind(name, subject.concept.kind)
        if subject.count > 1 and name.isascii():
            name = plural(name)
        after = rng.random()
        if subject.paint is not None:
            colour = pick(rng, PAINTS[subject.paint].english)
            if after < AFTER_SHARE:
                name = self.choose("paint after").format(name, c=colour)
            else:
                name = f"{colour} {name}"
        if rng.random() < ADJECTIVE_SHARE:
            name = f"{self.adjective(subject)} {name}"
        if subject.size is not None:
            if after > 1 - AFTER_SHARE:
                name = self.choose(f"size after {subject.size}").format(name)
                kind = "some" if name.startswith("a ") else kind
            else:
                name = f"{self.choose(f'size {subject.size}')} {name}"
        return name, kind

    def _phrase(self, index: int) -> str:
        """The noun with its article or number."""
        rng, count = self.rng, self.description.subjects[index].count
        noun, kind = self._noun(index)
        chance = rng.random()
        if count > 1:
            if chance < TIMES_SHARE:
                return pick(rng, TIMES).format(noun, count)
            if chance < TIMES_SHARE + SOME_SHARE:
                return f"{pick(rng, SOME)} {noun}"
            return f"{pick(rng, NUMBERS[count])} {noun}"
        if kind == "one" and chance < THE_SHARE + ONE_SHARE:
            return f"{pick(rng, ONE if chance < ONE_SHARE else THE)} {noun}"
        return with_article(noun, kind)

    def _bare(self, index: int) -> str:
        noun, _ = self._noun(index)
        count = self.description.subjects[index].count
        # Only English nouns show by themselves that they are several.
        if count == 1 or (self.rng.random() < SOME_SHARE and self.nouns[index].isascii()):
            return noun
        return f"{pick(self.rng, BARE_NUMBERS[count])} {noun}"

    def _a(self) -> str:
        return self._joined(self._phrase)

    def _n(self) -> str:
        return self._joined(self._bare, "bare pair")

    def _ai(self) -> str:
        """The subjects with what they do: "a fox sitting"."""
        phrase = self._a()
        if self.description.relation is not None or phrase.endswith((")", "close up")):
            return phrase
        doing = self._verb(0, several=True)
        return f"{phrase} {doing.removeprefix('are ')}" if doing.startswith("are ") else phrase

    def _joined(self, phrase: Callable[[int], str], own: str = "") -> str:
        """The subjects with their relation; some ways of it are for `own` lists of bare nouns."""
        if len(self.nouns) == 1:
            return phrase(0)
        name, swapped = self.swapped()
        first, second = (phrase(1), phrase(0)) if swapped else (phrase(0), phrase(1))
        kind = f"{own} {name}"
        if kind not in self.lists or self.rng.random() < 0.6:
            kind = f"pair {name}"
        # "{1}" is the first subject.
        return self.choose(kind).format("", first, second)

    # Sentences.

    def _several(self, index: int) -> bool:
        """True if the verb is in the plural: "two dogs are", "grapes are", "garlic is"."""
        return self.description.subjects[index].count > 1 or is_plural(self.nouns[index])

    def _be(self, index: int) -> str:
        return "are" if self._several(index) else "is"

    def _is(self) -> str:
        return "are" if len(self.nouns) > 1 else self._be(0)

    def _there(self) -> str:
        return f"there {self._be(0)}"

    def _verb(self, index: int, *, several: bool) -> str:
        shown = self.description
        subject = shown.subjects[index]
        group = f"verb {subject.concept.group}"
        if shown.setting in AIR:
            name = "verb underwater" if shown.setting == "underwater" else "verb air"
        elif group in self.lists and self.rng.random() < 0.7:
            name = group
        else:
            name = "verb" if self.placed() else "verb open"
        singular, _, plural_form = self.choose(name).partition("/")
        return plural_form if several else singular

    def _clause(self) -> str:
        """A main clause: "a fox is sitting", "a cat sits to the left of a dog"."""
        if len(self.nouns) == 1:
            return f"{self._phrase(0)} {self._verb(0, several=self._several(0))}"
        name, swapped = self.swapped()
        first, second = (1, 0) if swapped else (0, 1)
        return self.choose(f"clause {name}").format(
            a1=self._phrase(first),
            a2=self._phrase(second),
            verb1=self._verb(first, several=self._several(first)),
            verb2=self._verb(second, several=self._several(second)),
            verbs=self._verb(first, several=True),
            is1=self._be(first),
            is2=self._be(second),
            there1=f"there {self._be(first)}",
            there2=f"there {self._be(second)}",
        )

    # Places.

    def _w(self) -> str:
        """Where it is: place, light, ground and side, as they follow a sentence."""
        ground = self.description.ground is not None
        where = self.usually("ground", USUAL_SHARE) if ground else self._place()
        if self.description.side is None:
            return where
        side = self._side()
        if not where:
            return side
        return f"{where} {side}" if self.rng.random() < 0.5 else f"{side} {where}"

    def _place(self) -> str:
        shown = self.description
        if shown.setting is None:
            return "" if shown.light is None else self.light_word(self.PLACES)
        place = self.setting_word(self.PLACES)
        if shown.light is None:
            return place
        light = self.light_word(self.PLACES)
        return f"{light} {place}" if self.rng.random() < 0.3 else f"{place} {light}"

    def _t(self) -> str:
        tags = super()._t()
        if self.description.side is None:
            return tags
        return f"{tags}, {self._side()}" if tags else self._side()

    def _scene(self) -> str:
        """The setting's name without an article, with the light before it if there is one."""
        name = self.setting_word(self.NAMES)
        return name if self.description.light is None else f"{self.light_word(self.NAMES)} {name}"

    def _s0(self) -> str:
        """The setting as a phrase: "a snowy landscape"."""
        return scene_phrase(self.setting_word(self.NAMES))

    def _s(self) -> str:
        """The setting as a phrase with its light: "a snowy landscape at night"."""
        text = self._s0()
        return text if self.description.light is None else f"{text} {self.light_word(self.PLACES)}"

    def _colour(self) -> str:
        assert self.description.ground is not None
        return pick(self.rng, COLOURS[self.description.ground].english)

    def _a_colour(self) -> str:
        return with_article(self._colour(), "one")

    def _ground(self) -> str:
        return self.say("ground tag")

    def adjective(self, subject: Subject) -> str:
        """An adjective that says nothing of what is seen."""
        name = self.group_list("adjective", subject)
        return self.choose(name if self.rng.random() < 0.5 else "adjective")
