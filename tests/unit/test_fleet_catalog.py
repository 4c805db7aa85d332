"""The catalog of a fleet: every replica can use every adapter that is listed."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from inference_server.adapters.changes import ChangeKind
from inference_server.adapters.records import Adapter, AdapterState, FileEntry
from inference_server.ray_app.fleet_catalog import FleetCatalog


def adapter(name: str, version: str = "1", resident: bool = False, refused: str = "") -> Adapter:
    entry = FileEntry(name, name, (), 4, 100, version, refused)
    state = AdapterState.RESIDENT if resident else AdapterState.AVAILABLE
    return Adapter(entry, AdapterState.REFUSED if refused else state)


def with_thumbnail(name: str, jpeg: bytes) -> Adapter:
    return replace(adapter(name), thumbnail_hash=hashlib.sha256(jpeg).hexdigest())


def listed(catalog: FleetCatalog) -> dict[str, str]:
    return {a.entry.name: a.entry.content_hash for a in catalog.adapters}


async def test_a_file_is_listed_once_all_report_it_and_until_none_does() -> None:
    catalog = FleetCatalog()
    catalog.report("a", [])
    catalog.report("b", [])
    catalog.report("a", [adapter("ink")])
    assert listed(catalog) == {}
    catalog.report("b", [adapter("ink")])
    assert listed(catalog) == {"ink": "1"}
    catalog.report("a", [])
    assert listed(catalog) == {"ink": "1"}
    catalog.report("b", [])
    assert listed(catalog) == {}


async def test_a_new_version_is_listed_once_all_report_it() -> None:
    catalog = FleetCatalog()
    for replica in "ab":
        catalog.report(replica, [adapter("ink", "1", resident=True)])
    catalog.report("a", [adapter("ink", "2", resident=True)])
    assert listed(catalog) == {"ink": "1"}
    catalog.report("b", [adapter("ink", "2")])
    assert listed(catalog) == {"ink": "2"}
    assert catalog.adapters[0].state is AdapterState.RESIDENT


async def test_an_adapter_resident_at_one_replica_is_resident() -> None:
    catalog = FleetCatalog()
    catalog.report("a", [adapter("ink", resident=True), adapter("bad", refused="NaN")])
    catalog.report("b", [adapter("ink"), adapter("bad", refused="NaN")])
    states = {a.entry.name: a.state for a in catalog.adapters}
    assert states == {"ink": AdapterState.RESIDENT, "bad": AdapterState.REFUSED}


async def test_a_removed_replica_is_ignored() -> None:
    catalog = FleetCatalog()
    catalog.report("b", [])
    catalog.report("a", [adapter("ink")])
    assert listed(catalog) == {}
    catalog.keep_only(["a"])
    assert listed(catalog) == {"ink": "1"}


async def test_watchers_see_changes_of_the_fleet_not_of_replicas() -> None:
    catalog = FleetCatalog()
    watching = catalog.watch(None)
    assert (await anext(watching)).kind is ChangeKind.SNAPSHOT
    for replica in "abc":
        catalog.report(replica, [adapter("ink")])
        catalog.report(replica, [adapter("ink")])
    kinds = [change.kind for change in catalog._log]
    # The first replica alone is the fleet; the others report the same.
    assert kinds == [ChangeKind.ADDED]
    await watching.aclose()


async def test_a_thumbnail_is_listed_once_the_front_has_it() -> None:
    catalog, jpeg = FleetCatalog(), b"\xff\xd8\xff thumbnail"
    ink = with_thumbnail("ink", jpeg)
    for replica in "ab":
        catalog.report(replica, [ink])
    assert catalog.thumbnails.missing == [ink.thumbnail_hash]
    assert catalog.adapters[0].thumbnail_hash == ""
    catalog.put_thumbnails([jpeg])
    assert catalog.adapters[0].thumbnail_hash == ink.thumbnail_hash
    assert catalog.thumbnails.jpeg(ink.thumbnail_hash) == jpeg
    for replica in "ab":
        catalog.report(replica, [adapter("ink")])
    assert catalog.adapters[0].thumbnail_hash == "" and not catalog.thumbnails.missing
