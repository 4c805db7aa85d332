"""Writes concepts.tsv from choices.txt, emojibase's names, and the four icon sets.

    python -m training.data.select_concepts

choices.txt lists the emoji chosen by hand, one per line, under the @heading of their group:

    emoji | English | Chinese | English tags | Chinese tags

An empty name means emojibase's label. Before the English name, "~" marks plurals and mass nouns
(no article), "^" names that take "the". Emoji of banned groups are rejected. The Chinese measure
words are listed here, for the nouns where one is clearly right.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from training.data import concepts, fetch, icons
from training.data.concepts import Concept

CHOICES = Path(__file__).with_name("choices.txt")

BANNED_GROUPS = {2: "component", 8: "symbols", 9: "flags"}
"""Group numbers of emojibase whose emoji are rejected."""

BANNED_SUBGROUPS = set(range(32)) - {0, 7, 10, 11, 14, 22, 23, 25, 26, 27, 28}
"""Subgroups 0-31 of emojibase are faces, hands, and people. Allowed are those with a smile, a hat,
a skull, costumes, hearts, organs, and people by age, role, fantasy, activity, and sport."""

SKIN_TONES = tuple(f"{point:X}" for point in range(0x1F3FB, 0x1F400))
"""Code points of skin tones: people have the default yellow, so that one word is one drawing."""

MEASURES = {
    "匹": "🐎🦄🦓🐺🐪",
    "头": "🦁🐘🦣🐄🐂🐖🐗🦏🦛🦬🫏🐋🫎",
    "条": "🐍🐉🐟🐠🐡🦈🐛🐕🧣👗👖🎿🥒",
    "朵": "🌹🌻🌼🌷🌸🪷☁️",
    "棵": "🌱🌲🌳🌴🌵🎄🥬",
    "片": "🍁🍂🥓🍀",
    "根": "🍌🥕🌽🥖🪶🦴",
    "顶": "👒🎩🧢👑⛺🪖🎓",
    "辆": "🚌🚐🚑🚒🚓🚕🚗🚙🛻🚚🚛🚜🏎️🏍️🛵🚲🛴🛺🛒",
    "列": "🚂🚄🚆",
    "艘": "⛵🚤🛳️",
    "架": "✈️🚁🛰️🔭",
    "座": "⛰️🌋🏛️🏠🏢🏥🏫🏭🏯🏰🗼⛪🕌🛕🏝️",
    "把": "🎾🔪🥄☂️⛱️🪑🔑🔨🪓🗡️🪚🔧🪛🎸🎻🏹🧹🔫🪥🪭✂️",
    "本": "📕📖📗📘📓",
    "支": "✏️🖊️🕯️🖍️🖌️💄",
    "台": "💻🖥️🖨️📷📺🎥📹📻🔬",
    "杯": "☕🍵🍷🧋🥛🍺🍸",
    "件": "👕🧥🦺",
    "双": "🧦🧤🥢🩰",
    "块": "🧀🥩🪨🧱🧼🍰🍫🍪",
    "颗": "🍓🍒🥜🌰💎🦷⭐🍑🍬❤️",
    "个": "🍎🍏🍐🍊🍋🥝🍅🥥🍔🌭🥪🍩🎁🎈🧸⚽🏀🏐🔔🎲💀",
    "只": "👻",
    "张": "🕸️",
    "株": "🪸",
    "串": "🍇🍡",
}


def _labels(folder: Path, language: str) -> dict[str, dict[str, Any]]:
    """Returns emojibase's entries of a language, by the emoji itself and by its code points."""
    entries = json.loads((folder / language / "data.json").read_text(encoding="utf-8"))
    found = {entry["hexcode"]: entry for entry in entries}
    return found | {entry["emoji"].replace("\ufe0f", ""): entry for entry in entries}


def _measure(emoji: str, group: str) -> str:
    for measure, nouns in MEASURES.items():
        if emoji in nouns:
            return measure
    return {"animals": "只", "people": "个"}.get(group, "")


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def choose(lines: list[str], folders: dict[str, Path]) -> list[Concept]:
    """Returns the concepts for the lines of choices.txt.

    Args:
        lines: The lines, without empty ones.
        folders: As from `fetch.fetch_all`.

    Raises:
        concepts.TableError: Lines cannot be used; the message names each with the reason.
    """
    english = _labels(folders["emojibase-data"], "en")
    chinese = _labels(folders["emojibase-data"], "zh")
    sets = icons.open_sets(folders)
    group, chosen, wrong = "", [], []
    for line in lines:
        if line.startswith("@"):
            group = line.removeprefix("@").strip()
            continue
        emoji, name, name_zh, tags, tags_zh = (field.strip() for field in line.split("|"))
        entry = english.get(emoji.replace("\ufe0f", ""))
        if entry is None:
            wrong.append(f"{emoji}: not in emojibase")
            continue
        if entry["group"] in BANNED_GROUPS or entry["subgroup"] in BANNED_SUBGROUPS:
            wrong.append(f"{emoji}: of a banned group")
            continue
        code = entry["hexcode"]
        if any(tone in code.split("-") for tone in SKIN_TONES):
            wrong.append(f"{emoji}: has a skin tone")
            continue
        found = {key: icon_set.icon_of(code) for key, icon_set in sets.items()}
        missing = [key for key, icon in found.items() if icon is None]
        if missing:
            wrong.append(f"{emoji}: no icon in {', '.join(missing)}")
            continue
        kind = {"~": "some", "^": "the"}.get(name[:1], "one")
        chosen.append(
            Concept(
                code=code,
                emoji=emoji,
                group=group,
                kind=kind,
                english=name.lstrip("~^") or entry["label"],
                english_tags=_split(tags),
                chinese=name_zh or chinese[code]["label"],
                chinese_tags=_split(tags_zh),
                measure=_measure(emoji, group),
                icons={key: icon for key, icon in found.items() if icon is not None},
            )
        )
    if wrong:
        raise concepts.TableError(f"{CHOICES.name} has unusable lines:\n  " + "\n  ".join(wrong))
    return chosen


def main() -> None:
    """Writes concepts.tsv and prints the number of concepts."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lines = [line for line in CHOICES.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = choose(lines, fetch.fetch_all())
    concepts.write(chosen)
    print(f"{len(chosen)} concepts written to {concepts.TABLE.name}")


if __name__ == "__main__":
    main()
