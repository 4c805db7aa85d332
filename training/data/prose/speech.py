"""What captions of both languages share: slots, lists, and words that suit setting and light."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import ClassVar

from training.data.prose.description import Description, Subject
from training.data.prose.drawing import pick
from training.data.prose.templates import Lists
from training.data.scenes import words

Names = Callable[[Subject], str]

SETTINGS = words.read()
LIGHTS = words.read(words.LIGHTS_TABLE)

AIR = frozenset({"underwater", "sky", "night sky", "space"})
"""Settings without a ground: subjects float in them."""
UNDER_ROOF = frozenset({"underwater", "sky", "room", "kitchen", "table"})
"""Settings over which the sun does not set."""
CLOUDED = frozenset({"rain", "fog", "underwater", "room", "kitchen", "table"})
"""Settings into which the sun does not shine."""
DAY_WORDS = ("day", "morning", "blue sky", "蓝天", "晨")
"""Parts of settings' words that already say the light; for scenes by day only."""
SUNNY_WORDS = ("sunshine", "sunny", "sunlight", "bright", "晴", "阳光")
"""Parts of lights' words that do not suit CLOUDED settings."""

PAIRS = {
    None: ("with", False),
    "next to": ("next", False),
    "left of": ("left", False),
    "right of": ("left", True),
    "above": ("above", False),
    "below": ("above", True),
}
"""Name of the list for a relation, and True where it names the subjects in the other order."""

TAG_COUNTS = (1, 1, 2, 2, 3, 4)
"""How many tags in a row say nothing of what is seen."""
ENDING_SHARE = 0.14
"""Share of short captions with such tags at the end."""
LONG_SCENE_SHARE = 0.12
"""Share of long captions among those of scenes."""
USUAL_TAG_SHARE = 0.25
"""Share of plain grounds that are named by the usual tag: "white background"."""
THINGS = frozenset(
    {
        *("clothing", "music", "devices", "stationery", "tools", "household", "sports", "toys"),
        *("celebration",),
    }
)
"""Groups of concepts that are things one can hold, use or buy."""


def weighted(weights: Mapping[str, int]) -> tuple[str, ...]:
    """Returns every name as often as its weight."""
    return tuple(name for name, weight in weights.items() for _ in range(weight))


def _suiting(column: str) -> dict[tuple[str | None, str | None], tuple[str, ...]]:
    """A setting's words per setting and light that do not gainsay the light."""
    return {
        (setting, light): tuple(
            word
            for word in getattr(entry, column)
            if light == "day" or not any(part in word for part in DAY_WORDS)
        )
        for setting, entry in SETTINGS.items()
        for light in (None, *LIGHTS)
    }


def _lights(column: str) -> dict[tuple[str | None, str | None], tuple[str, ...]]:
    """A light's words per setting and light that do not gainsay the setting."""
    return {
        (setting, light): tuple(
            word
            for word in getattr(entry, column)
            if setting not in CLOUDED or not any(part in word for part in SUNNY_WORDS)
        )
        for setting in (None, *SETTINGS)
        for light, entry in LIGHTS.items()
    }


SETTING_WORDS = {column: _suiting(column) for column in words.COLUMNS}
LIGHT_WORDS = {column: _lights(column) for column in words.COLUMNS}
"""Words by column of the tables, then by setting and light."""


class Speech:
    """One caption in the making: template slots are filled by methods of their names.

    Attributes:
        description: What the caption says.
        names: Chooses a noun for a subject.
        lists: The texts of the language.
        rng: The only source of chance.
    """

    NAMES: ClassVar[str]
    """Column of `words` with names that stand alone; PLACES: with places."""
    PLACES: ClassVar[str]
    COMMA: ClassVar[str]
    OPEN: ClassVar[tuple[str, ...]]
    GROUND: ClassVar[tuple[str, ...]]
    SETTING: ClassVar[tuple[str, ...]]
    """Kinds of captions of subjects as often as their weights: in general, and for a plain ground
    or a setting."""

    def __init__(
        self, description: Description, names: Names, lists: Lists, rng: random.Random
    ) -> None:
        self.description = description
        self.names = names
        self.lists = lists
        self.rng = rng

    def __getitem__(self, slot: str) -> str:
        text: str = getattr(self, f"_{slot}")()
        return text

    def caption(self) -> str:
        """Returns the caption, uncapitalized and without a full stop, before typing mistakes."""
        raise NotImplementedError

    def say(self, name: str) -> str:
        """Returns one text of a list with its slots filled."""
        return pick(self.rng, self.lists[name]).format_map(self)

    def choose(self, name: str) -> str:
        """Returns one text of a list as it stands."""
        return pick(self.rng, self.lists[name])

    def usually(self, name: str, share: float) -> str:
        """Returns a text as `say` does, but the first of the list for a share of captions."""
        if self.rng.random() < share:
            return self.lists[name][0].format_map(self)
        return self.say(name)

    def lit_scene(self) -> str | None:
        """The caption of an image without subjects that begins with its light, or None."""
        raise NotImplementedError

    def kind(self, *, general: bool) -> str:
        """Returns a kind of caption for what is described, or a general one."""
        shown = self.description
        if general or (shown.ground is None and shown.setting is None):
            kinds = self.OPEN
        else:
            kinds = self.SETTING if shown.ground is None else self.GROUND
        return pick(self.rng, kinds)

    def swapped(self) -> tuple[str, bool]:
        """Name of the list for the relation, and True if the second subject comes first in it."""
        relation = self.description.relation
        name, swap = PAIRS[relation]
        return name, swap or (relation in (None, "next to") and self.rng.random() < 0.5)

    def setting_word(self, column: str) -> str:
        """A word for the setting."""
        shown = self.description
        word = pick(self.rng, SETTING_WORDS[column][shown.setting, shown.light])
        # "A fox floats floating in the cosmos" says it twice.
        return word.removeprefix("floating ")

    def light_word(self, column: str) -> str:
        """A word for the light."""
        shown = self.description
        choices = LIGHT_WORDS[column][shown.setting, shown.light]
        return pick(self.rng, choices)

    def placed(self) -> bool:
        """True if a setting, a light or a plain ground is described."""
        shown = self.description
        return any(part is not None for part in (shown.setting, shown.light, shown.ground))

    def ended(self, text: str) -> str:
        """The text, now and then with tags that say nothing of what is seen."""
        return f"{text}{self.COMMA}{self._x()}" if self.rng.random() < ENDING_SHARE else text

    def scene_only(self) -> str:
        """The caption of an image without subjects."""
        shown = self.description
        if shown.ground is not None:
            return self.ended(self.say("plain scene"))
        if shown.setting is None:
            return self.ended(self.say("light scene"))
        text = self.lit_scene() or self.say("scene")
        return self.long(text) if self.rng.random() < LONG_SCENE_SHARE else self.ended(text)

    def long(self, core: str) -> str:
        """The core amid many phrases, or before sentences, that say nothing of what is seen."""
        raise NotImplementedError

    def group_list(self, kind: str, subject: Subject) -> str:
        """Name of the list of a kind for the subject's group, or that for all."""
        group = subject.concept.group
        name = f"{kind} {'things' if group in THINGS else group}"
        return name if name in self.lists else kind

    def _x(self) -> str:
        return self.COMMA.join(self.rng.sample(self.lists["x"], pick(self.rng, TAG_COUNTS)))

    def _medium(self) -> str:
        return self.choose("medium")

    def _bare_medium(self) -> str:
        return self.choose("bare medium")

    def _side(self) -> str:
        return self.choose(f"side {self.description.side}")

    def _t(self) -> str:
        """Where it is, as tags: "snow, night", "white background"."""
        rng, shown = self.rng, self.description
        parts = []
        if shown.ground is not None:
            parts.append(self.usually("ground tag", USUAL_TAG_SHARE))
        if shown.setting is not None:
            parts.append(self.setting_word(self.NAMES if rng.random() < 0.75 else self.PLACES))
        if shown.light is not None:
            parts.append(self.light_word(self.NAMES if rng.random() < 0.7 else self.PLACES))
        if len(parts) > 1 and rng.random() < 0.3:
            parts.reverse()
        return self.COMMA.join(parts)
