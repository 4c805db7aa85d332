"""Which files count as finished and which as gone, with scans and clocks made up."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_manager.admission import Admission, DirectoryChanges
from lora_manager.directory import Scan
from lora_manager.hints import Hints
from lora_manager.lora_file import LoraFile, Stamp
from lora_manager.unfinished import Signs

QUIET = 1.8
TICK = 2.0
OLD, YOUNG, FUTURE = 0, 10**18, 2 * 10**18
WALL = 10**18 + 10**9


def found(name: str, version: int = 1, *, mtime: int = OLD, refusal: str = "") -> LoraFile:
    relative = f"{name}.safetensors"
    stamp = Stamp(1, zlib.crc32(name.encode()), version, mtime + version, ctime_ns=version)
    return LoraFile(name, relative, Path("/loras", relative), stamp, refusal)


class Directory:
    """An Admission and its clock."""

    def __init__(self) -> None:
        self.admission = Admission(QUIET)
        self.now = 0.0

    def scan(
        self,
        *files: LoraFile,
        hints: Hints = Hints(),  # noqa: B008 (frozen)
        root: tuple[int, int] = (1, 1),
        unreadable: frozenset[str] = frozenset(),
        signs: Signs = Signs(),  # noqa: B008 (frozen)
    ) -> DirectoryChanges:
        self.now += TICK
        scan = Scan(root, {f.name: f for f in files}, unreadable)
        each = {f.relative: signs for f in files}
        return self.admission.observe(scan, each, hints, now=self.now, wall_ns=WALL)

    def look(
        self,
        seen: dict[str, LoraFile | None],
        hints: Hints = Hints(),  # noqa: B008 (frozen)
        signs: Signs = Signs(),  # noqa: B008 (frozen)
    ) -> DirectoryChanges:
        self.now += TICK
        each = dict.fromkeys(seen, signs)
        return self.admission.observe_hinted(seen, each, hints, now=self.now)


def arrived(*names: str) -> Hints:
    return Hints(arrived=frozenset(f"{name}.safetensors" for name in names))


def gone(*names: str) -> Hints:
    return Hints(gone=frozenset(f"{name}.safetensors" for name in names))


def names(changes: DirectoryChanges) -> list[str]:
    return [f.name for f in changes.admitted]


@pytest.mark.parametrize("mtime", [YOUNG, FUTURE])
def test_at_the_start_old_files_are_in_at_once_and_young_ones_after_two_equal_scans(
    mtime: int,
) -> None:
    directory = Directory()
    files = found("old"), found("young", mtime=mtime)
    assert names(directory.scan(*files)) == ["old"]
    assert directory.admission.present == {"old", "young"}
    assert names(directory.scan(*files)) == ["young"]
    assert names(directory.scan(*files)) == []


def test_a_file_is_present_from_the_first_look_until_it_is_gone() -> None:
    directory = Directory()
    anchor = found("anchor")
    for size in (1, 2, 3):
        directory.scan(anchor, found("adapters/ink", size, mtime=YOUNG))
        assert directory.admission.present == {"anchor", "adapters/ink"}
    directory.scan(anchor, unreadable=frozenset({"adapters"}))
    assert directory.admission.present == {"anchor", "adapters/ink"}
    directory.scan(anchor)
    assert directory.admission.present == {"anchor"}
    directory.scan(anchor, found("oil", mtime=YOUNG))
    assert directory.admission.present == {"anchor", "oil"}
    directory.look({"oil.safetensors": None}, gone("oil"))
    assert directory.admission.present == {"anchor"}


def test_later_an_old_time_alone_admits_nothing() -> None:
    directory = Directory()
    directory.scan()
    assert names(directory.scan(found("copied-with-its-times"))) == []


def test_an_event_admits_at_once_also_through_its_folder() -> None:
    directory = Directory()
    directory.scan()
    assert names(directory.scan(found("ink"), hints=arrived("ink"))) == ["ink"]
    hints = Hints(arrived=frozenset({"adapters"}))
    assert names(directory.scan(found("ink"), found("adapters/oil"), hints=hints)) == [
        "adapters/oil"
    ]


def test_scans_in_quick_succession_count_as_one() -> None:
    directory = Directory()
    directory.scan()
    scan = Scan((1, 1), {"ink": found("ink", mtime=YOUNG)})
    for now in (10.0, 10.1, 11.0):
        assert not directory.admission.observe(scan, {}, Hints(), now=now, wall_ns=WALL).admitted
    assert directory.admission.observe(scan, {}, Hints(), now=11.9, wall_ns=WALL).admitted


def test_a_growing_file_is_not_admitted_and_its_old_version_stays_known() -> None:
    directory = Directory()
    directory.scan(found("ink", 1))
    for size in range(2, 9):
        assert directory.scan(found("ink", size)) == DirectoryChanges()
        assert directory.admission.known["ink"] == found("ink", 1)
    assert names(directory.scan(found("ink", 8))) == ["ink"]


def test_a_file_that_may_be_open_must_stay_equal_for_longer_unless_an_event_closes_it() -> None:
    directory = Directory()
    directory.admission = Admission(QUIET, 4 * TICK)
    middle = found("middle", mtime=WALL - int(3 * TICK * 1e9))
    assert names(directory.scan(found("old"), middle)) == ["old"]
    unproven = found("unproven", mtime=OLD)
    for looks in range(5):
        changes = directory.scan(found("old"), middle, unproven)
        assert names(changes) == (["middle"] if looks == 3 else ["unproven"] if looks == 4 else [])
        if looks == 1:
            reason = directory.admission.waiting["unproven"].reason
            assert "does not say whether a program has it open" in reason and "8 seconds" in reason
    assert names(directory.scan(found("old"), found("new"), hints=arrived("new"))) == ["new"]
    for expected in ([], ["closed"]):
        changes = directory.scan(found("old"), found("closed"), signs=Signs(closed=True))
        assert names(changes) == expected


def test_a_refusal_needs_no_waiting() -> None:
    directory = Directory()
    directory.scan()
    assert names(directory.scan(found("p", refusal="a pickle"))) == ["p"]
    assert names(directory.scan(found("p", refusal="a pickle"))) == []


def test_one_of_several_that_is_missing_is_gone() -> None:
    directory = Directory()
    directory.scan(found("ink"), found("oil"))
    assert directory.scan(found("oil")).removed == ("ink",)
    assert directory.admission.known.keys() == {"oil"}


def test_the_only_file_is_gone_after_two_scans_or_an_event() -> None:
    directory = Directory()
    directory.scan(found("ink"))
    assert directory.scan() == DirectoryChanges()
    assert directory.scan().removed == ("ink",)
    directory.scan(found("oil"), hints=arrived("oil"))
    assert directory.scan(hints=gone("oil")).removed == ("oil",)


def test_all_at_once_without_events_is_not_believed_and_reported_once() -> None:
    directory = Directory()
    directory.scan(found("ink"), found("oil"))
    changes = [directory.scan() for _ in range(5)]
    assert not any(c.removed for c in changes)
    assert sum(bool(c.warning) for c in changes) == 1
    assert directory.scan(found("ink"), found("oil")) == DirectoryChanges()
    assert directory.scan(hints=gone("ink", "oil")).removed == ("ink", "oil")


def test_a_directory_that_is_alive_is_believed_again() -> None:
    directory = Directory()
    directory.scan(found("ink"), found("oil"))
    directory.scan()
    assert directory.scan(found("new")).removed == ("ink", "oil")


def test_another_empty_root_evicts_not_even_a_single_file() -> None:
    directory = Directory()
    directory.scan(found("ink"))
    changes = [directory.scan(root=(2, 2)) for _ in range(4)]
    assert not any(c.removed for c in changes)
    assert sum(bool(c.warning) for c in changes) == 1
    assert directory.scan(found("ink"), root=(1, 1)) == DirectoryChanges()


def test_what_lies_in_an_unreadable_folder_is_not_gone() -> None:
    directory = Directory()
    directory.scan(found("ink"), found("adapters/oil"))
    changes = directory.scan(found("ink"), unreadable=frozenset({"adapters"}))
    assert changes == DirectoryChanges()


def test_a_rename_keeps_both_halves_together() -> None:
    directory = Directory()
    directory.scan(found("old"), found("other"))
    # A rename changes the ctime.
    stamp = replace(found("old").stamp, ctime_ns=99)
    moved = LoraFile("new", "new.safetensors", Path("/loras/new"), stamp)
    changes = directory.scan(moved, found("other"))
    assert (names(changes), changes.removed, changes.renamed) == (["new"], (), {"new": "old"})


def test_hinted_paths_alone_tell_a_rename_a_deletion_and_an_arrival() -> None:
    directory = Directory()
    directory.scan(found("old"), found("other"))
    moved = LoraFile("new", "new.safetensors", Path("/loras/new"), found("old").stamp)
    changes = directory.look(
        {"old.safetensors": None, "new.safetensors": moved},
        Hints(frozenset({"new.safetensors"}), frozenset({"old.safetensors"})),
    )
    assert (names(changes), changes.removed, changes.renamed) == (["new"], (), {"new": "old"})
    changes = directory.look({"other.safetensors": None}, arrived("other"))
    assert changes == DirectoryChanges(), "an arrival that is not there says nothing"
    changes = directory.look({"other.safetensors": found("other")}, gone("other"))
    assert changes == DirectoryChanges(), "a deletion of what is there says nothing"
    changes = directory.look({"other.safetensors": None}, gone("other"))
    assert changes.removed == ("other",)


def test_a_change_of_the_ctime_alone_is_a_change() -> None:
    directory = Directory()
    directory.scan(found("ink"))
    other = replace(found("ink"), stamp=replace(found("ink").stamp, ctime_ns=99))
    assert names(directory.scan(other)) == []
    assert names(directory.scan(other)) == ["ink"]


@pytest.mark.parametrize("order", [(".pt", ".safetensors"), (".safetensors", ".pt")])
def test_of_two_files_of_one_name_in_one_batch_the_usable_one_wins(order: tuple[str, ...]) -> None:
    directory = Directory()
    directory.scan()
    good = found("ink")
    both = {
        ".safetensors": good,
        ".pt": replace(good, relative="ink.pt", path=Path("/loras/ink.pt"), refusal="a pickle"),
    }
    seen = {both[suffix].relative: both[suffix] for suffix in order}
    changes = directory.look(seen, Hints(arrived=frozenset(seen)))
    assert changes.admitted == (good,)
    assert directory.admission.known == {"ink": good}


def test_a_second_file_of_a_name_that_is_waited_for_needs_a_full_scan() -> None:
    directory = Directory()
    directory.scan(found("ink", mtime=YOUNG))
    other = replace(found("ink"), relative="ink.pt", refusal="a pickle")
    assert directory.admission.knows_elsewhere(other)
    assert not directory.admission.knows_elsewhere(found("ink", 2))


def test_a_file_that_could_not_be_read_comes_again() -> None:
    directory = Directory()
    directory.scan(found("ink"))
    directory.admission.retry("ink")
    assert names(directory.scan(found("ink"))) == []
    assert names(directory.scan(found("ink"))) == ["ink"]
    assert names(directory.scan(found("ink"))) == []
    directory.admission.retry("ink")
    hinted = {"ink.safetensors": found("ink")}
    assert names(directory.look(hinted, arrived("ink"))) == ["ink"]


def test_a_file_that_is_renamed_before_it_is_read_again_keeps_both_halves_together() -> None:
    directory = Directory()
    directory.scan(found("old"), found("other"))
    directory.admission.retry("old")
    moved = LoraFile("new", "new.safetensors", Path("/loras/new"), found("old").stamp)
    assert directory.scan(moved, found("other")).renamed == {"new": "old"}


@pytest.mark.parametrize("keep", [0, 1])
@given(
    history=st.lists(
        st.dictionaries(st.sampled_from("abcd"), st.integers(1, 3), max_size=4), max_size=12
    )
)
def test_whatever_happens_nothing_unsettled_is_admitted_and_peace_brings_the_truth(
    keep: int, history: list[dict[str, int]]
) -> None:
    """`keep` files are never touched, so that the directory never looks unmounted."""
    directory = Directory()
    anchor = [found(f"anchor{n}") for n in range(keep)]
    before: dict[str, LoraFile] = {}
    published: dict[str, LoraFile] = {}
    peace = [history[-1]] * 4 if history else []
    for number, state in enumerate([{}, *history, *peace]):
        files = [*anchor, *(found(n, v, mtime=YOUNG) for n, v in state.items())]
        changes = directory.scan(*files)
        for name in (*changes.removed, *changes.renamed.values()):
            published.pop(name, None)
            assert name not in state or name in names(changes)
        for admitted in changes.admitted:
            assert number == 0 or before.get(admitted.name) == admitted
            published[admitted.name] = admitted
        assert published == directory.admission.known
        before = {f.name: f for f in files}
    if keep or (history and history[-1]):
        assert published == before
