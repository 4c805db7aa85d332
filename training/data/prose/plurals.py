"""English plurals of names: "foxes", "sheep", "glasses of milk"."""

from __future__ import annotations

IRREGULAR = {
    **{word: word for word in ("sheep", "fish", "deer", "bison", "moose", "shrimp", "squid")},
    **{word: word for word in ("salmon", "trout", "swine", "elk", "reindeer", "aircraft")},
    **{word: word for word in ("goldfish", "spacecraft", "clownfish", "jellyfish", "blowfish")},
    **{word: word for word in ("starfish", "pufferfish", "swordfish", "cod", "tuna", "hovercraft")},
    **{"mouse": "mice", "goose": "geese", "ox": "oxen", "tooth": "teeth", "foot": "feet"},
    **{"man": "men", "woman": "women", "child": "children", "person": "people", "dice": "dice"},
    **{"wolf": "wolves", "leaf": "leaves", "loaf": "loaves", "knife": "knives", "calf": "calves"},
    **{
        "elf": "elves",
        "scarf": "scarves",
        "shelf": "shelves",
        "half": "halves",
        "wife": "wives",
        "sheaf": "sheaves",
    },
    **{"thief": "thieves", "hoof": "hooves", "cactus": "cacti", "octopus": "octopuses"},
    **{"tomato": "tomatoes", "potato": "potatoes", "mango": "mangoes", "hero": "heroes"},
    **{"superhero": "superheroes", "volcano": "volcanoes", "tornado": "tornadoes"},
    **{"mosquito": "mosquitoes", "buffalo": "buffaloes", "echo": "echoes", "dodo": "dodos"},
    **{"wharf": "wharves", "louse": "lice", "quiz": "quizzes", "passerby": "passersby"},
}
"""Plurals of last words that the rules get wrong."""

MEN = ("man", "woman")
"""Endings whose plurals end in "men": "snowman". IRREGULAR words that do not: NOT_MEN."""
NOT_MEN = ("human", "german", "roman", "caiman", "talisman", "ottoman", "shaman", "doberman")

JOINTS = (" of ", " with ", " behind ", " in ", " on ", " over ", " and ")
"""What follows the counted word: "slices of pizza". In "bow and arrow" both words are counted."""


def _of_word(word: str) -> str:
    lower = word.lower()
    if lower in IRREGULAR:
        return word[0] + IRREGULAR[lower][1:]
    if lower.endswith(MEN) and lower not in NOT_MEN:
        return word[:-2] + "en"
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if lower.endswith("y") and lower[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def plural(name: str) -> str:
    """Returns the plural of a countable name: its head is the word before "of", or the last one."""
    for joint in JOINTS:
        head, found, rest = name.partition(joint)
        if found:
            return plural(head) + joint + (plural(rest) if joint == " and " else rest)
    *first, last = name.split(" ")
    return " ".join((*first, _of_word(last)))
