"""Words for settings and lights in captions, in English and Chinese.

`settings.tsv` and `lights.tsv` hold, per setting or light, names that stand alone ("snowfield")
and places that follow a subject ("in the snow"; in Chinese 雪地里, as in 雪地里的狐狸). The usual
word comes first. "At sunset" belongs to the light of that name; the setting of that name, which
shows the sun itself, has other words.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

SETTINGS_TABLE = Path(__file__).with_name("settings.tsv")
LIGHTS_TABLE = Path(__file__).with_name("lights.tsv")
COLUMNS = ("english", "english_places", "chinese", "chinese_places")


@dataclass(frozen=True, slots=True)
class Words:
    """Names and places of one setting or light, the usual one first in each language."""

    english: tuple[str, ...]
    english_places: tuple[str, ...]
    chinese: tuple[str, ...]
    chinese_places: tuple[str, ...]


def read(path: Path = SETTINGS_TABLE) -> dict[str, Words]:
    """The words of a table by the name in its first column, in its order.

    Raises:
        ValueError: A cell is empty, or a name stands in two rows.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file, delimiter="\t")
        key, *columns = next(reader)
        if tuple(columns) != COLUMNS:
            raise ValueError(f"{path} has the columns {columns}; expected {COLUMNS}.")
        table = {row[0]: Words(*(tuple(cell.split(",")) for cell in row[1:])) for row in reader}
    for language in COLUMNS:
        cells = [word for words in table.values() for word in getattr(words, language)]
        twice = {word for word in cells if cells.count(word) > 1}
        if twice or not all(cells):
            raise ValueError(f"{path}: a {key} has an empty {language} word, or shares {twice}.")
    return table
