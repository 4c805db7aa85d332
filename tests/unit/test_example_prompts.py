"""The prompts to try with the model that is being trained: words that people use and it learns."""

from __future__ import annotations

import csv

from training.data.prose import lexicon

PROMPTS = lexicon.TABLE.with_name("example_prompts.tsv")


def test_each_example_prompt_has_a_subject_that_is_trained() -> None:
    with PROMPTS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 40
    words = {"english": set[str](), "chinese": set[str]()}
    for entry in lexicon.read():
        words["english"] |= {*entry.english, entry.plural}
        words["chinese"] |= set(entry.chinese)
    for language, known in words.items():
        prompts = [row[language] for row in rows]
        assert len(set(prompts)) == 40
        # A button of the page has two short lines.
        assert max(map(len, prompts)) <= 48
        assert [p for p in prompts if not any(word in p for word in known)] == []
