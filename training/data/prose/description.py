"""What an image shows, before it is put into words or painted.

None means that the words leave it open; the image's noise decides then.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.data.concepts import Concept
from training.data.scenes.anchors import MAX_SUBJECTS, RELATIONS, SIDES
from training.data.scenes.scene import SETTINGS

SUBJECT_SIZES = ("small", "large")
"""Sizes that words give to a single subject."""


class DescriptionError(ValueError):
    """Parts of a description contradict each other; the message says which."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One subject of an image, or several equal ones.

    Attributes:
        concept: What it is.
        count: How many there are, 1 to 4.
        size: One of SUBJECT_SIZES, or None.
        paint: Name of the colour it is painted in (`paints.PAINTS`), or None for its own colours.
    """

    concept: Concept
    count: int = 1
    size: str | None = None
    paint: str | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What one image shows.

    Attributes:
        subjects: None, one or two.
        relation: Where the first of two subjects is seen from the second, one of RELATIONS.
        side: Where in the frame a single subject is, one of SIDES, or None.
        setting: One of SETTINGS, or None.
        light: "day", "sunset" or "night", or None.
        ground: Index in `captions.COLOURS` of a plain background, or None.

    Raises:
        DescriptionError: Parts contradict each other.
    """

    subjects: tuple[Subject, ...] = ()
    relation: str | None = None
    side: str | None = None
    setting: str | None = None
    light: str | None = None
    ground: int | None = None

    def __post_init__(self) -> None:
        single = len(self.subjects) == 1 and self.subjects[0].count == 1
        wrong = {
            "more than two subjects": len(self.subjects) > 2,
            "two subjects of which one is several": len(self.subjects) == 2
            and any(subject.count != 1 for subject in self.subjects),
            "a count outside 1 to 4": any(
                not 1 <= subject.count <= MAX_SUBJECTS for subject in self.subjects
            ),
            "a relation that is none, or not of two subjects": self.relation is not None
            and (self.relation not in RELATIONS or len(self.subjects) != 2),
            "a side that is none, or not of a single subject": self.side is not None
            and (self.side not in SIDES or not single),
            "a size that is none, or not of a single subject": any(
                subject.size is not None and (subject.size not in SUBJECT_SIZES or not single)
                for subject in self.subjects
            ),
            "an unknown setting": self.setting is not None and self.setting not in SETTINGS,
            "a light that the setting does not have": self.light is not None
            and self.setting is not None
            and self.light not in SETTINGS[self.setting].lights,
            "a plain background and a setting or a light": self.ground is not None
            and (self.setting is not None or self.light is not None),
        }
        if found := [text for text, broken in wrong.items() if broken]:
            raise DescriptionError(f"The description has {', '.join(found)}.")
