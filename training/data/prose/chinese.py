"""Chinese captions: the slots of the templates in templates.zh.tsv, filled for one description."""

from __future__ import annotations

from training.data.captions import COLOURS
from training.data.prose.description import Subject
from training.data.prose.drawing import pick
from training.data.prose.paints import PAINTS
from training.data.prose.speech import AIR, Speech, weighted

NUMBERS = {1: ("一", "一", "一", "1"), 2: ("两", "两", "2"), 3: ("三", "三", "3"), 4: ("四", "4")}
PAIR_SHARE = 0.1
"""Share of two equal subjects that are "a pair"."""
MEASURE = "个"
"""For names whose measure word is not certain."""

SYNTAX = {"bare": 14, "phrase": 24, "ask": 17, "tags": 17, "sentence": 16, "prose": 12}
OPEN_KINDS = weighted(SYNTAX)
GROUND_KINDS = weighted(SYNTAX | {"product": 30})
"""Kinds of captions of subjects as often as their weights; the latter for a plain ground."""

NAME_SHARE = 0.6
"""Share of bare captions that are the name alone."""
ADJECTIVE_SHARE = 0.18
AFTER_SHARE = 0.15
"""Shares of noun phrases with a meaningless adjective, and with the colour or size behind."""
OMITTED_SHARE = 0.3
"""Share of colours said without 的: 红色汽车."""
STORY_SHARE = 0.2
SENTENCES_SHARE = 0.3
"""Shares of long captions told in sentences from the start, and only after the first."""
PROSE_PHRASES = (4, 12)
"""Number of phrases without meaning in long captions, least and most."""


class Chinese(Speech):
    """One Chinese caption in the making."""

    NAMES, PLACES, COMMA = "chinese", "chinese_places", "，"

    def caption(self) -> str:
        """Returns the caption without a full stop, before typing mistakes."""
        shown = self.description
        if not shown.subjects:
            return self.scene_only()
        placed = self.placed()
        which = "placed" if placed else "open"
        kind = pick(self.rng, GROUND_KINDS if shown.ground is not None else OPEN_KINDS)
        if shown.side is not None or shown.relation is not None:
            text = self.say(f"{'related' if shown.side is None else 'sided'} {which}")
            return self.long(text) if kind == "prose" else self.ended(text)
        if kind == "prose":
            told = placed and self.rng.random() < STORY_SHARE
            return self.long(self.say("story" if told else f"core {which}"))
        if kind == "product":
            return self.ended(self.say(kind))
        if kind == "bare" and not placed and self.rng.random() < NAME_SHARE:
            return self._n()
        text = self.say(f"{kind} {which}")
        return text if kind == "tags" else self.ended(text)

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

    def _noun(self, subject: Subject) -> tuple[str, str]:
        """The noun with its adjectives, and a frame "{0}" for what is said around the phrase."""
        rng = self.rng
        noun, frame = self.names(subject), "{0}"
        after = rng.random()
        if subject.paint is not None:
            colour = pick(rng, PAINTS[subject.paint].chinese)
            if not colour.endswith("色"):
                noun = colour + noun
            elif after < AFTER_SHARE:
                frame = self.choose("paint after").replace("{c}", colour)
            else:
                noun = f"{colour}{noun}" if rng.random() < OMITTED_SHARE else f"{colour}的{noun}"
        if rng.random() < ADJECTIVE_SHARE:
            general = rng.random() < 0.5
            kind = "adjective" if general else self.group_list("adjective", subject)
            noun = self.choose(kind) + noun
        if subject.size is not None:
            if after > 1 - AFTER_SHARE:
                frame = self.choose(f"size after {subject.size}")
            else:
                noun = self.choose(f"size {subject.size}") + noun
        return noun, frame

    def _phrase(self, subject: Subject, *, numbered: bool = True) -> str:
        """The noun with number and measure word: "一只狐狸"; only the noun if not numbered."""
        noun, frame = self._noun(subject)
        count, measure = subject.count, subject.concept.measure or MEASURE
        if count > 1:
            if count == 2 and self.rng.random() < PAIR_SHARE:
                number = "一对"
            else:
                number = pick(self.rng, NUMBERS[count]) + measure
        elif not numbered or subject.concept.kind == "the" or noun.startswith("一"):
            number = ""
        else:
            number = pick(self.rng, NUMBERS[1]) + measure
        return frame.format(number + noun)

    def _bare(self, subject: Subject) -> str:
        return self._phrase(subject, numbered=False)

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
        subjects = self.description.subjects
        if self.description.setting in AIR:
            return self.choose("doing air")
        groups = {self.group_list("doing", subject) for subject in subjects}
        return self.choose(groups.pop() if len(groups) == 1 else "doing things")

    # Places.

    def _w(self) -> str:
        """Where it is, as it stands before 有 and 的: place and light, or ground."""
        shown = self.description
        if shown.ground is not None:
            return self.say("ground")
        if shown.setting is None:
            return self.light_word(self.PLACES)
        place = self.setting_word(self.PLACES)
        if shown.light is None:
            return place
        light = self.light_word(self.PLACES)
        return f"{light}的{place}" if self.rng.random() < 0.6 else f"{light}{place}"

    def _colour(self) -> str:
        assert self.description.ground is not None
        return pick(self.rng, COLOURS[self.description.ground].chinese)
