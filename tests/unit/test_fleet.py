"""Many replicas' styles as one list: what is listed can be drawn by any of them."""

from __future__ import annotations

from inference_server.adapters.changes import ChangeKind
from inference_server.adapters.records import Adapter, AdapterState, FileEntry
from inference_server.ray_app.fleet import Fleet


def style(name: str, version: str = "1", resident: bool = False, refused: str = "") -> Adapter:
    entry = FileEntry(name, name, (), 4, 100, version, refused)
    state = AdapterState.RESIDENT if resident else AdapterState.AVAILABLE
    return Adapter(entry, AdapterState.REFUSED if refused else state)


def listed(fleet: Fleet) -> dict[str, str]:
    return {a.entry.name: a.entry.content_hash for a in fleet.adapters}


async def test_a_new_file_is_listed_once_all_know_it_and_goes_once_none_does() -> None:
    fleet = Fleet()
    fleet.report("a", [])
    fleet.report("b", [])
    fleet.report("a", [style("ink")])
    assert listed(fleet) == {}
    fleet.report("b", [style("ink")])
    assert listed(fleet) == {"ink": "1"}
    fleet.report("a", [])
    assert listed(fleet) == {"ink": "1"}
    fleet.report("b", [])
    assert listed(fleet) == {}


async def test_a_new_version_is_shown_once_all_have_seen_it() -> None:
    fleet = Fleet()
    for replica in "ab":
        fleet.report(replica, [style("ink", "1", resident=True)])
    fleet.report("a", [style("ink", "2", resident=True)])
    assert listed(fleet) == {"ink": "1"}
    fleet.report("b", [style("ink", "2")])
    assert listed(fleet) == {"ink": "2"}
    assert fleet.adapters[0].state is AdapterState.RESIDENT


async def test_resident_anywhere_is_resident_and_refused_is_refused_by_all() -> None:
    fleet = Fleet()
    fleet.report("a", [style("ink", resident=True), style("bad", refused="NaN")])
    fleet.report("b", [style("ink"), style("bad", refused="NaN")])
    states = {a.entry.name: a.state for a in fleet.adapters}
    assert states == {"ink": AdapterState.RESIDENT, "bad": AdapterState.REFUSED}


async def test_a_replica_that_is_gone_counts_no_more() -> None:
    fleet = Fleet()
    fleet.report("b", [])
    fleet.report("a", [style("ink")])
    assert listed(fleet) == {}
    fleet.keep_only(["a"])
    assert listed(fleet) == {"ink": "1"}


async def test_watchers_hear_of_the_fleet_not_of_replicas() -> None:
    fleet = Fleet()
    watching = fleet.watch(None)
    assert (await anext(watching)).kind is ChangeKind.SNAPSHOT
    for replica in "abc":
        fleet.report(replica, [style("ink")])
        fleet.report(replica, [style("ink")])
    kinds = [change.kind for change in fleet._log]
    # The first replica is the fleet; others that agree change nothing.
    assert kinds == [ChangeKind.ADDED]
    await watching.aclose()
