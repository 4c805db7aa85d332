"""Writes the groups of prompts: `python -m benchmarks.quality.prompts.write`.

Captions come from templates, and words where it matters, that training never shows. The files are
committed; they are written again only where the lexicon or the measures change.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from benchmarks.quality.prompts import Prompt, lists, save
from training.data.captions import COLOURS, LANGUAGES, with_article
from training.data.prose import lexicon, speech
from training.data.prose.description import SUBJECT_SIZES, Description, Subject
from training.data.prose.lexicon import Entry
from training.data.prose.noise import TYPO_LETTERS, mistyped
from training.data.prose.paints import PAINTS
from training.data.prose.writing import Writer
from training.data.scenes.anchors import RELATIONS
from training.data.scenes.scene import SETTINGS

LONG = {"en": 60, "zh": 20}
"""Characters from which on a caption is free prose."""
BARE_ENGLISH = ("{n}", "{n}", "{n}", "{a}", "{N}!", "{T}", "{n} please")
BARE_CHINESE = ("{n}", "{n}", "{n}", "{n}！", "来个{n}")
MIXED = {
    "en": ("a {n} {w}", "{n} {w}, high quality", "draw a {n} {w}", "a photo of {n} {w}"),
    "zh": ("{w}的{n}", "一个{n}在{w}", "{w}有一个{n}，高清", "画一个{w}的{n}"),
}


class Draft:
    """Descriptions and captions from one source of chance.

    Args:
        seed: Of the chance.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.entries = lexicon.read()
        self.countable = [entry for entry in self.entries if entry.concept.kind == "one"]
        self.paintable = [entry for entry in self.entries if entry.paintable]
        self._writer = Writer(self.entries, {})

    def entry(self, among: Sequence[Entry] | None = None) -> Entry:
        """Returns any entry."""
        return self.rng.choice(self.entries if among is None else among)

    def caption(self, shown: Description, language: str, *, words: bool = False) -> str:
        """Returns a caption of held-out templates, with held-out words if `words`."""
        return self._writer.write(
            shown, language, self.rng, held_out=True, held_out_words=words, mistyped=False
        )

    def long(self, shown: Description, language: str) -> str:
        """Returns a caption in free prose."""
        text = ""
        while len(text) < LONG[language]:
            text = self.caption(shown, language)
        return text

    def bare(self, entry: Entry, language: str) -> str:
        """Returns a name as it may be typed."""
        if language == "zh":
            return self.rng.choice(BARE_CHINESE).format(n=self.rng.choice(entry.chinese[:2]))
        name = self.rng.choice(entry.english[:2])
        article = with_article(name, entry.concept.kind)
        return self.rng.choice(BARE_ENGLISH).format(
            n=name, a=article, N=name.upper(), T=name.capitalize()
        )

    def seed(self) -> int:
        """Returns a seed."""
        return self.rng.randrange(2**32)

    def setting(self, number: int | None = None) -> tuple[str, str | None]:
        """Returns a setting, all in turn if `number` is given, and perhaps its light."""
        names = list(SETTINGS)
        name = self.rng.choice(names) if number is None else names[number % len(names)]
        lights = list(SETTINGS[name].lights)
        stated = len(lights) > 1 and self.rng.random() < 0.5
        return name, self.rng.choice(lights) if stated else None


def paired(
    draft: Draft,
    count: int,
    shown: Callable[[int], Description],
    caption: Callable[[Description, str], str] | None = None,
) -> list[Prompt]:
    """Returns `count` prompts: each description in both languages, with one seed."""
    made = []
    for number in range(count // 2):
        description, seed = shown(number), draft.seed()
        for language in LANGUAGES:
            text = (caption or draft.caption)(description, language)
            made.append(Prompt(text, language, seed, description))
    return made


def one(draft: Draft, number: int) -> Description:
    """One subject: in a setting, on a plain ground, or anywhere."""
    subject = Subject(draft.entry().concept)
    if number % 3 == 0:
        setting, light = draft.setting()
        return Description((subject,), setting=setting, light=light)
    if number % 3 == 1:
        return Description((subject,), ground=draft.rng.randrange(len(COLOURS)))
    return Description((subject,))


def two(draft: Draft, number: int, relation: str | None) -> Description:
    """Two subjects, every other time in a setting."""
    first, second = draft.rng.sample(draft.countable, 2)
    pair = (Subject(first.concept), Subject(second.concept))
    setting = draft.setting()[0] if number % 2 else None
    return Description(pair, relation=relation, setting=setting)


def scene(draft: Draft, number: int) -> Description:
    """A setting, every other time with a subject."""
    setting, light = draft.setting(number)
    subjects = (Subject(draft.entry().concept),) if number // 2 % 2 else ()
    return Description(subjects, setting=setting, light=light)


def lit(draft: Draft, number: int) -> Description:
    """A setting in a stated light, every other time with a subject."""
    several = [name for name, entry in SETTINGS.items() if len(entry.lights) > 1]
    setting = draft.rng.choice(several)
    lights = sorted(SETTINGS[setting].lights)
    subjects = (Subject(draft.entry().concept),) if number % 2 else ()
    return Description(subjects, setting=setting, light=lights[number % len(lights)])


def painted(draft: Draft, number: int) -> Description:
    """A subject in a colour."""
    paint = list(PAINTS)[number % len(PAINTS)]
    setting = draft.setting()[0] if number // len(PAINTS) % 2 else None
    subject = Subject(draft.entry(draft.paintable).concept, paint=paint)
    return Description((subject,), setting=setting)


def sized(draft: Draft, number: int) -> Description:
    """A small or large subject."""
    subject = Subject(draft.entry(draft.countable).concept, size=SUBJECT_SIZES[number % 2])
    return Description((subject,), setting=draft.setting()[0] if number % 4 > 1 else None)


def old(shown: Description, language: str) -> str:
    """The form of the first training: "a fox on an orange background"."""
    concept = shown.subjects[0].concept
    colour = COLOURS[shown.ground or 0]
    if language == "zh":
        return f"{colour.chinese[0]}背景上的{concept.chinese}"
    ground = with_article(colour.english[0], "one")
    return f"{with_article(concept.english, concept.kind)} on {ground} background"


def typos(draft: Draft, count: int) -> Iterator[Prompt]:
    """English captions with one mistyped letter in the subject's name."""
    known = {word.lower() for entry in draft.entries for word in entry.english}
    while count:
        entry = draft.entry()
        name = entry.concept.english
        word = max(name.split(" "), key=len)
        wrong = mistyped(word, draft.rng)
        if len(word) < TYPO_LETTERS or not word.isalpha() or wrong in (word, *known):
            continue
        typed = name.replace(word, wrong)
        text = draft.rng.choice(("{n}", "{a}", "{a}, soft light", "draw {a}")).format(
            n=typed, a=with_article(typed, entry.concept.kind)
        )
        yield Prompt(text, "en", draft.seed(), Description((Subject(entry.concept),)))
        count -= 1


def mixed(draft: Draft, number: int) -> Prompt:
    """A caption whose subject is named in the other language."""
    language = LANGUAGES[number % 2]
    setting, _ = draft.setting()
    words = speech.SETTINGS[setting]
    entry = draft.entry(draft.countable)
    name = entry.concept.chinese if language == "en" else entry.concept.english
    place = (words.english_places if language == "en" else words.chinese_places)[0]
    text = draft.rng.choice(MIXED[language]).format(n=name, w=place)
    shown = Description((Subject(entry.concept),), setting=setting)
    return Prompt(text, language, draft.seed(), shown)


def synonyms(draft: Draft, count: int) -> list[Prompt]:
    """Captions that name a subject by a word that training never shows."""
    made = []
    for number in range(count):
        language = LANGUAGES[number % 2]
        held_out = [
            e for e in draft.entries
            if (e.held_out_english if language == "en" else e.held_out_chinese)
        ]  # fmt: skip
        shown = Description((Subject(draft.entry(held_out).concept),))
        text = draft.caption(shown, language, words=True)
        made.append(Prompt(text, language, draft.seed(), shown))
    return made


def free(draft: Draft, texts: Sequence[str]) -> list[Prompt]:
    """Hand-written prompts of which only a clean image is expected."""
    return [Prompt(text, "en" if text.isascii() else "zh", draft.seed()) for text in texts]


def groups() -> dict[str, list[Prompt]]:
    """Returns all groups."""
    d = Draft(20261130)
    by_code = {entry.concept.code: entry for entry in d.entries}
    bare = d.rng.sample(d.entries, 100)
    return {
        "bare": paired(
            d,
            200,
            lambda n: Description((Subject(bare[n].concept),)),
            lambda shown, language: d.bare(by_code[shown.subjects[0].concept.code], language),
        ),
        "prose": paired(d, 200, lambda n: one(d, n), d.long),
        "old": paired(
            d,
            100,
            lambda n: Description((Subject(d.entry().concept),), ground=n % len(COLOURS)),
            lambda shown, language: old(shown, language),
        ),
        "scenes": paired(d, 100, lambda n: scene(d, n)),
        "two": paired(d, 100, lambda n: two(d, n, None)),
        "counts": paired(
            d,
            60,
            lambda n: Description((Subject(d.entry(d.countable).concept, 2 + n % 3),)),
        ),
        "relations": paired(d, 80, lambda n: two(d, n, RELATIONS[n % len(RELATIONS)])),
        "paints": paired(d, 60, lambda n: painted(d, n)),
        "sizes": paired(d, 40, lambda n: sized(d, n)),
        "lights": paired(d, 60, lambda n: lit(d, n)),
        "synonyms": synonyms(d, 100),
        "unknown": free(d, lists.UNKNOWN),
        "nonsense": free(d, lists.NONSENSE),
        "typos": list(typos(d, 60)),
        "mixed": [mixed(d, n) for n in range(40)],
        "own": free(d, lists.OWN),
    }


if __name__ == "__main__":
    for name, prompts in groups().items():
        save(name, prompts)
