"""Chinese captions: the slots of the templates in templates.zh.tsv, filled for one description."""

from __future__ import annotations

import random

from training.data.captions import COLOURS
from training.data.prose.description import Description, Subject
from training.data.prose.drawing import pick
from training.data.prose.paints import PAINTS
from training.data.prose.speech import AIR, Names, Speech, weighted
from training.data.prose.templates import Lists

NUMBERS = {2: ("两", "两", "2"), 3: ("三", "三", "3"), 4: ("四", "四", "4")}
DIGIT_SHARE = 0.08
"""Share of single subjects counted with a digit."""
PAIR_SHARE, SOME_SHARE = 0.1, 0.04
"""Shares of two equal subjects that are "a pair", and of several whose number is left open."""
SOME = ("几{0}", "好几{0}", "一些", "一群")
MEASURE = "个"
"""For names whose measure word is not certain."""

SYNTAX = {"bare": 14, "phrase": 24, "ask": 17, "tags": 17, "sentence": 16, "prose": 12}

NAME_SHARE = 0.6
"""Share of bare captions that are the name alone."""
USUAL_SHARE = 0.25
"""Share of plain grounds that are named by the usual words: 白色背景上."""
ADJECTIVE_SHARE = 0.18
AFTER_SHARE = 0.15
"""Shares of noun phrases with a meaningless adjective, and with the colour or size at the end."""
OMITTED_SHARE = 0.3
"""Share of colours said without 的: 红色汽车."""
SHORT = 2
"""Length up to which a noun follows a colour without 色: 红汽车."""
STORY_SHARE = 0.2
SENTENCES_SHARE = 0.3
"""Shares of long captions in sentences from the start, and only after the first."""
PROSE_PHRASES = (4, 12)
"""Number of phrases without meaning in long captions, least and most."""


class Chinese(Speech):
    """One Chinese caption in the making."""

    NAMES, PLACES, COMMA = "chinese", "chinese_places", "，"
    OPEN = weighted(SYNTAX | {"bare": 45})
    GROUND = weighted(SYNTAX | {"product": 30})
    SETTING = weighted(SYNTAX | {"scened": 12})

    def __init__(
        self, description: Description, names: Names, lists: Lists, rng: random.Random
    ) -> None:
        super().__init__(description, names, lists, rng)
        self._tail = ""
        """What is added at the end: a colour or size that the noun phrase has not."""

    def caption(self) -> str:
        """Returns the caption without a full stop, before typing mistakes."""
        shown = self.description
        if not shown.subjects:
            return self.scene_only()
        which = "placed" if self.placed() else "open"
        arranged = shown.side is not None or shown.relation is not None
        kind = self.kind(general=arranged)
        if arranged:
            name = f"{'related' if shown.side is None else 'sided'} {which}"
        elif kind == "prose":
            story = which == "placed" and self.rng.random() < STORY_SHARE
            name = "story" if story else f"core {which}"
        else:
            name = kind if kind in ("scened", "product") else f"{kind} {which}"
        bare = name == "bare open" and self.rng.random() < NAME_SHARE
        text = self._n() if bare else self.say(name)
        text += self._tail
        if kind == "prose":
            return self.long(text)
        return text if kind == "tags" or bare else self.ended(text)

    def lit_scene(self) -> str | None:
        """None: Chinese words the light of a scene like that of a subject."""
        return None

    def long(self, core: str) -> str:
        """The core amid many phrases, or before sentences, that say nothing of what is seen."""
        rng = self.rng
        least, most = PROSE_PHRASES
        count = least + int(rng.random() * (most - least + 1))
        if rng.random() < SENTENCES_SHARE:
            texts = self.lists["extra"]
            return "。".join((core, *rng.sample(texts, min(len(texts), count // 2))))
        texts = self.lists["fragment"]
        more = rng.sample(texts, min(len(texts), count))
        start = 0 if rng.random() < 0.8 else pick(rng, (1, 2, 3))
        return "，".join((*more[:start], core, *more[start:]))

    # Subjects.

    def _noun(self, subject: Subject) -> str:
        """The noun with its adjectives."""
        rng, noun = self.rng, self.names(subject)
        plain = subject.paint is None and subject.size is None
        if rng.random() < (ADJECTIVE_SHARE if plain else ADJECTIVE_SHARE / 3):
            kind = self.group_list("adjective", subject) if rng.random() < 0.5 else "adjective"
            noun = self.choose(kind) + noun
        after = rng.random()
        if subject.paint is not None:
            colour = pick(rng, PAINTS[subject.paint].chinese)
            if not colour.endswith("色"):
                noun = colour + noun if len(noun) <= SHORT else f"{colour}色的{noun}"
            elif after < AFTER_SHARE:
                self._tail = f"，{self.choose('tail paint').format(c=colour)}"
            else:
                noun = f"{colour}{noun}" if rng.random() < OMITTED_SHARE else f"{colour}的{noun}"
        if subject.size is not None:
            if after > 1 - AFTER_SHARE:
                self._tail += f"，{self.choose(f'tail {subject.size}')}"
            else:
                noun = self.choose(f"size {subject.size}") + noun
        return noun

    def _phrase(self, subject: Subject, *, numbered: bool = True) -> str:
        """The noun with number and measure word: "一只狐狸"; only the noun if not numbered."""
        rng, noun = self.rng, self._noun(subject)
        count, measure = subject.count, subject.concept.measure or MEASURE
        if count > 1:
            if rng.random() < SOME_SHARE:
                return pick(rng, SOME).format(measure) + noun
            if count == 2 and rng.random() < PAIR_SHARE:
                return f"一对{noun}"
            return pick(rng, NUMBERS[count]) + measure + noun
        if not numbered or subject.concept.kind == "the" or noun.startswith("一"):
            return noun
        return ("1" if rng.random() < DIGIT_SHARE else "一") + measure + noun

    def _a(self) -> str:
        return self._joined(numbered=True)

    def _n(self) -> str:
        return self._joined(numbered=False)

    def _joined(self, *, numbered: bool) -> str:
        """The subjects with their relation."""
        first, *others = (self._phrase(s, numbered=numbered) for s in self.description.subjects)
        if not others:
            return first
        second = others[0]
        name, swapped = self.swapped()
        if swapped:
            first, second = second, first
        # "{1}" is the first subject.
        return self.choose(f"pair {name}").format("", first, second)

    def _doing(self) -> str:
        setting = self.description.setting
        if setting in AIR:
            return self.choose("doing underwater" if setting == "underwater" else "doing air")
        groups = {self.group_list("doing", subject) for subject in self.description.subjects}
        return self.choose(groups.pop() if len(groups) == 1 else "doing")

    # Places.

    def _w(self) -> str:
        """Where it is, as it stands before 有 and 的: place and light, or ground."""
        shown = self.description
        if shown.ground is not None:
            return self.usually("ground", USUAL_SHARE)
        if shown.setting is None:
            return self.light_word(self.PLACES)
        place = self.setting_word(self.PLACES)
        if shown.light is None:
            return place
        light = self.light_word(self.PLACES)
        return f"{light}的{place}" if self.rng.random() < 0.6 else f"{light}{place}"

    def _b(self) -> str:
        """Where it is as a noun: 白色, 雪景, 月光下的雪景."""
        shown = self.description
        if shown.ground is not None:
            return self._colour()
        return self._scene() if shown.setting is not None else self.light_word(self.NAMES)

    def _scene(self) -> str:
        """The setting's name, with the light before it if there is one."""
        name = self.setting_word(self.NAMES)
        return name if self.description.light is None else f"{self.light_word(self.PLACES)}的{name}"

    def _colour(self) -> str:
        assert self.description.ground is not None
        return pick(self.rng, COLOURS[self.description.ground].chinese)
