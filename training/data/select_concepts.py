"""Writes concepts.tsv from choices.txt, emojibase's names and the four icon sets.

    python -m training.data.select_concepts

Owns the choice: choices.txt lists the emoji picked by eye, one a line under its group's @heading,

    emoji | English | Chinese | English tags | Chinese tags

where an empty name is emojibase's label, and "~" before the English marks plurals and stuff
(no article), "^" what takes "the". Refuses groups that must not be drawn. Chinese measure words
are listed here, for the nouns where one is plainly right.
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
"""emojibase's numbers of groups of which nothing may be chosen."""

BANNED_SUBGROUPS = set(range(32)) - {11, 22}
"""emojibase's subgroups 0-31 are faces, hands and people; costumes and organs are let in."""

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
    "颗": "🍓🍒🥜🌰💎🦷⭐🍑🍬",
    "个": "🍎🍏🍐🍊🍋🥝🍅🥥🍔🌭🥪🍩🎁🎈🧸⚽🏀🏐🔔🎲",
    "只": "👻",
    "张": "🕸️",
    "株": "🪸",
    "串": "🍇🍡",
}


def _labels(folder: Path, language: str) -> dict[str, dict[str, Any]]:
    """Emojibase's entries of a language, by the emoji itself and by its code points."""
    entries = json.loads((folder / language / "data.json").read_text(encoding="utf-8"))
    found = {entry["hexcode"]: entry for entry in entries}
    return found | {entry["emoji"].replace("\ufe0f", ""): entry for entry in entries}


def _measure(emoji: str, group: str) -> str:
    for measure, nouns in MEASURES.items():
        if emoji in nouns:
            return measure
    return "只" if group == "animals" else ""


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def choose(lines: list[str], folders: dict[str, Path]) -> list[Concept]:
    """Concepts for the lines of choices.txt; `folders` is what `fetch.fetch_all` returned.

    Raises concepts.TableError that names every line which cannot be used and why.
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
    """Writes concepts.tsv and says how many there are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    lines = [line for line in CHOICES.read_text(encoding="utf-8").splitlines() if line.strip()]
    chosen = choose(lines, fetch.fetch_all())
    concepts.write(chosen)
    print(f"{len(chosen)} concepts written to {concepts.TABLE.name}")


if __name__ == "__main__":
    main()
