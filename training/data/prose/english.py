"""English captions: the slots of the templates in templates.en.tsv, filled for one description."""

from __future__ import annotations

from collections.abc import Callable

from training.data.captions import COLOURS, with_article
from training.data.prose.description import Subject
from training.data.prose.drawing import pick
from training.data.prose.paints import PAINTS
from training.data.prose.plurals import plural
from training.data.prose.speech import AIR, Speech, weighted

NUMBERS = {
    1: ("one", "1", "a single"),
    2: ("two", "2", "two", "a pair of", "a couple of", "2x"),
    3: ("three", "3", "three", "a trio of", "a group of three", "3x"),
    4: ("four", "4", "four", "a group of four", "4x"),
}
BARE_NUMBERS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
TIMES = ("{0} x{1}", "{0}, {1} of them", "{0} ({1})")
TIMES_SHARE = 0.05

PLURAL_LIKE = frozenset({"dice", "people"})
THE = frozenset(
    {
        *("woods", "alps", "sahara", "sea", "ocean", "high seas", "open water", "deep sea"),
        *("seaside", "seashore", "coast", "seabed", "ocean floor", "sky", "blue sky", "night sky"),
        *("universe", "galaxy", "cosmos", "moon surface", "lunar surface", "surface of the moon"),
        *("setting sun", "evening glow", "countryside", "jungle", "rainforest", "rain", "fog"),
        *("mist", "spotlight", "desert", "highway", "open road", "starry sky", "city", "forest"),
    }
)
MASS = frozenset(
    {
        *("snow", "fall foliage", "golden autumn", "open water", "space", "outer space", "rain"),
        *("wet weather", "fog", "mist", "haze", "downtown", "under the sea", "indoors"),
        *("grassland", "dusk", "sundown", "starlight", "countryside", "heaven", "woodland"),
    }
)
"""Names of scenes that take "the", and those that take no article."""

SYNTAX = {
    **{"bare": 12, "phrase": 22, "ask": 15, "tags": 16, "sentence": 18, "headline": 3},
    **{"prose": 14},
}
GROUND_SYNTAX = SYNTAX | {"product": 30}
SETTING_SYNTAX = SYNTAX | {"scened": 16}
"""Kinds of captions of subjects with their weights; the latter for a plain ground or a setting."""

NAME_SHARE = 0.7
"""Share of bare captions that are the name alone."""
ADJECTIVE_SHARE = 0.16
AFTER_SHARE = 0.2
"""Shares of noun phrases with a meaningless adjective, and with the colour or size behind."""
THE_SHARE = 0.06
ONE_SHARE = 0.06
STORY_SHARE = 0.15
SENTENCES_SHARE = 0.3
"""Shares of long captions told in sentences from the start, and only after the first."""
PROSE_WORDS = (28, 66)
"""Number of words, least and most, for which long captions aim."""
MOST_PHRASES = 18


OPEN_KINDS, GROUND_KINDS, SETTING_KINDS = map(weighted, (SYNTAX, GROUND_SYNTAX, SETTING_SYNTAX))


class English(Speech):
    """One English caption in the making."""

    NAMES, PLACES, COMMA = "english", "english_places", ", "

    def caption(self) -> str:
        """Returns the caption, uncapitalized and without a full stop, before typing mistakes."""
        shown = self.description
        if not shown.subjects:
            return self.scene_only()
        if shown.side is not None:
            kinds = OPEN_KINDS
        elif shown.ground is not None:
            kinds = GROUND_KINDS
        else:
            kinds = OPEN_KINDS if shown.setting is None else SETTING_KINDS
        kind = pick(self.rng, kinds)
        if kind in ("scened", "product"):
            return self.ended(self.say(kind))
        placed = self.placed() or shown.side is not None
        which = "placed" if placed else "open"
        if kind == "prose":
            told = placed and self.rng.random() < STORY_SHARE
            return self.long(self.say("story" if told else f"core {which}"))
        if kind == "bare" and not placed and self.rng.random() < NAME_SHARE:
            return self._n()
        text = self.say(f"{kind} {which}")
        return text if kind == "tags" else self.ended(text)

    # Long captions.

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

    def _noun(self, subject: Subject) -> str:
        """The noun with its adjectives, in the plural where there are several."""
        rng = self.rng
        name = self.names(subject)
        if subject.count > 1 and name.isascii():
            name = plural(name)
        chance = rng.random()
        after = chance < AFTER_SHARE
        if subject.paint is not None:
            colour = pick(rng, PAINTS[subject.paint].english)
            if after:
                name = pick(rng, self.lists["paint after"]).format(name, c=colour)
            else:
                name = f"{colour} {name}"
        if rng.random() < ADJECTIVE_SHARE:
            name = f"{self._adjective(subject)} {name}"
        if subject.size is not None:
            if chance > 1 - AFTER_SHARE:
                name = pick(rng, self.lists[f"size after {subject.size}"]).format(name)
            else:
                name = f"{pick(rng, self.lists[f'size {subject.size}'])} {name}"
        return name

    def _adjective(self, subject: Subject) -> str:
        general = self.rng.random() < 0.5
        return self.choose("adjective" if general else self.group_list("adjective", subject))

    def _phrase(self, subject: Subject) -> str:
        """The noun with its article or number."""
        rng, noun = self.rng, self._noun(subject)
        if subject.count > 1:
            number = str(subject.count)
            if rng.random() < TIMES_SHARE:
                return pick(rng, TIMES).format(noun, number)
            return f"{pick(rng, NUMBERS[subject.count])} {noun}"
        kind = subject.concept.kind
        chance = rng.random()
        if chance < THE_SHARE:
            return f"the {noun}"
        if chance < THE_SHARE + ONE_SHARE and kind == "one":
            return f"{pick(rng, NUMBERS[1])} {noun}"
        if noun.startswith("a "):
            return noun
        return with_article(noun, kind)

    def _bare(self, subject: Subject) -> str:
        noun = self._noun(subject)
        if subject.count > 1:
            return f"{pick(self.rng, BARE_NUMBERS[subject.count])} {noun}"
        return noun

    def _a(self) -> str:
        return self._joined(self._phrase)

    def _n(self) -> str:
        return self._joined(self._bare)

    def _a1(self) -> str:
        return self._phrase(self.description.subjects[0])

    def _joined(self, phrase: Callable[[Subject], str]) -> str:
        """The subjects with their relation."""
        shown = self.description
        if len(shown.subjects) == 1:
            return phrase(shown.subjects[0])
        first, second = (phrase(subject) for subject in shown.subjects)
        name, swapped = self.swapped()
        if swapped:
            first, second = second, first
        # Slots named by digits would be positions to `format`; "{1}" is the first subject.
        return pick(self.rng, self.lists[f"pair {name}"]).format("", first, second)

    # Sentences.

    def _is(self) -> str:
        return "are" if len(self.description.subjects) > 1 else self._be(0)

    def _be(self, index: int) -> str:
        return "are" if _several(self.description.subjects[index]) else "is"

    def _there(self) -> str:
        return f"there {self._is() if len(self.description.subjects) < 2 else self._be(0)}"

    def _verb(self, index: int, *, several: bool) -> str:
        rng, shown = self.rng, self.description
        group = f"verb {shown.subjects[index].concept.group}"
        if shown.setting is None:
            name = "verb open"
        elif shown.setting in AIR:
            name = "verb air"
        elif group in self.lists and rng.random() < 0.6:
            name = group
        else:
            name = "verb"
        singular, _, more = pick(rng, self.lists[name]).partition("/")
        return more if several else singular

    def _clause(self) -> str:
        """A main clause: "a fox is sitting", "a cat sits to the left of a dog"."""
        shown = self.description
        subjects = shown.subjects
        if len(subjects) == 1:
            several = _several(subjects[0])
            return f"{self._phrase(subjects[0])} {self._verb(0, several=several)}"
        name, swapped = self.swapped()
        first, second = (1, 0) if swapped else (0, 1)
        several1, several2 = _several(subjects[first]), _several(subjects[second])
        return pick(self.rng, self.lists[f"clause {name}"]).format(
            a1=self._phrase(subjects[first]),
            a2=self._phrase(subjects[second]),
            verb1=self._verb(first, several=several1),
            verb2=self._verb(second, several=several2),
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
        where = self.say("ground") if ground else self._place()
        if self.description.side is None:
            return where
        side = self._side()
        if not where:
            return side
        return f"{where} {side}" if self.rng.random() < 0.5 else f"{side} {where}"

    def _place(self) -> str:
        rng, shown = self.rng, self.description
        if shown.setting is None:
            return "" if shown.light is None else self.light_word(self.PLACES)
        place = self.setting_word(self.PLACES)
        if shown.light is None:
            return place
        light = self.light_word(self.PLACES)
        return f"{light} {place}" if rng.random() < 0.3 else f"{place} {light}"

    def _t(self) -> str:
        tags = super()._t()
        if self.description.side is None:
            return tags
        return f"{tags}, {self._side()}" if tags else self._side()

    def _scene(self) -> str:
        """The setting's name without an article, with the light before it if there is one."""
        name = self.setting_word(self.NAMES)
        return name if self.description.light is None else f"{self.light_word(self.NAMES)} {name}"

    def _s(self) -> str:
        """The setting as a phrase: "a snowy landscape at night"."""
        name = self.setting_word(self.NAMES)
        if name in THE:
            text = f"the {name}"
        elif name in MASS or name.endswith("s"):
            text = name
        else:
            text = with_article(name, "one")
        return text if self.description.light is None else f"{text} {self.light_word(self.PLACES)}"

    def _colour(self) -> str:
        assert self.description.ground is not None
        return pick(self.rng, COLOURS[self.description.ground].english)

    def _a_colour(self) -> str:
        return with_article(self._colour(), "one")

    def _ground(self) -> str:
        return self.say("ground tag")


def _several(subject: Subject) -> bool:
    """True if the verb is in the plural: "two dogs are", "grapes are", "garlic is"."""
    name = subject.concept.english
    return subject.count > 1 or (
        subject.concept.kind == "some" and (name.endswith("s") or name in PLURAL_LIKE)
    )
