"""English nouns: which take an article, which a number, and names of scenes as phrases."""

from __future__ import annotations

import re

from training.data.captions import with_article

MASS = frozenset(
    {
        *("rice", "bread", "corn", "cheese", "honey", "milk", "wine", "coffee", "tea", "candy"),
        *("rain", "meat", "butter", "pasta", "spaghetti", "bacon", "popcorn", "garlic", "broccoli"),
        *(
            "sushi",
            "coral",
            "fire",
            "juice",
            "lettuce",
            "money",
            "blood",
            "soap",
            "yarn",
            "thread",
            "hay",
        ),
        *("champagne", "ramen", "cereal", "stew", "jewelry", "luggage", "clothing", "bamboo"),
        *("lightning", "thunder", "toast", "cash", "parchment", "lemonade", "chocolate", "ice"),
        *("dna", "grain", "wheat", "soup", "maize", "fondue", "toilet paper", "shaved ice", "soda"),
    }
)
"""Last words of names without an article and a plural."""
PROPER = frozenset(
    {
        *("earth", "saturn", "fujiyama", "santa claus", "santa", "mount fuji", "bigfoot", "bambi"),
        *("father christmas", "sherlock holmes", "legolas", "merlin", "dracula", "nosferatu"),
        *("tinker bell", "cinderella", "cupid", "kris kringle", "st nick", "saint nick", "simba"),
        *("count dracula", "saint nicholas", "old saint nick", "superman", "prince charming"),
    }
)
"""Whole names without either."""
PLURAL = frozenset({"dice", "people", "police", "skis"})
SINGULAR_S = frozenset(
    {
        *("lens", "series", "news", "chess", "tennis", "canvas", "christmas", "gas", "rhinoceros"),
        *("ananas", "atlas", "longlegs", "legolas", "holmes"),
    }
)
"""Last words that are plurals without an s, and others that are none with it."""
_PLURAL_END = re.compile(r"[^suiS']s$")
_SINGLE = re.compile(
    r"(pair|pile|bunch|bowl|piece|set|slice|bag|plate|stack|sprig|cup|bucket|head|box|cluster) of "
    r"|.*\b(campfire|bonfire|flame|headset|necklace|display|wildfire|inferno|blaze|set)$"
)
"""Names that take an article although the concept's usual name is a plural."""
_JOINT = re.compile(r" (?:of|with|behind|in|on|over|for) ")

THE_SCENES = frozenset(
    {
        *("woods", "alps", "sahara", "sea", "ocean", "high seas", "open water", "deep sea"),
        *("seaside", "seashore", "coast", "seabed", "ocean floor", "sky", "blue sky", "night sky"),
        *("universe", "galaxy", "cosmos", "moon surface", "lunar surface", "surface of the moon"),
        *("setting sun", "evening glow", "countryside", "jungle", "rainforest", "rain", "fog"),
        *("mist", "spotlight", "desert", "highway", "open road", "starry sky", "city", "forest"),
    }
)
BARE_SCENES = frozenset(
    {
        *("snow", "fall foliage", "golden autumn", "space", "outer space", "rain", "fog", "mist"),
        *("wet weather", "haze", "downtown", "under the sea", "indoors", "grassland", "dusk"),
        *("sundown", "starlight", "heaven", "woodland"),
    }
)
"""Names of scenes that take "the", and others that take no article although they are no plurals."""


def head(name: str) -> str:
    """Returns the word that is counted: "glass" of "glass of milk", "tree" of "pine tree"."""
    return _JOINT.split(name, maxsplit=1)[0].rsplit(" ", 1)[-1].lower()


def is_plural(name: str) -> bool:
    """True for names that are plurals in form: "grapes", "glasses", "dice"."""
    word = head(name)
    return word in PLURAL or (word not in SINGULAR_S and bool(_PLURAL_END.search(word)))


def article_kind(name: str, kind: str) -> str:
    """Returns the kind, as in `Concept`, of a name of a concept of the kind."""
    if not name.isascii():
        return kind
    lower = name.lower()
    if lower in PROPER or head(name) in MASS or lower in MASS or is_plural(name):
        return "some"
    return "one" if kind == "some" and _SINGLE.match(lower) else kind


def scene_phrase(name: str) -> str:
    """Returns a scene's name with its article: "the woods", "mountains", "a coral reef"."""
    if name in BARE_SCENES or (name.endswith("s") and name not in THE_SCENES):
        return name
    return f"the {name}" if name in THE_SCENES else with_article(name, "one")
