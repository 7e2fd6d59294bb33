"""Files from a hub: whole and right, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from lemonade_serve import errors
from lemonade_serve.importers import blob
from lemonade_serve.protocol.jobs import RepositoryFile
from tests.hub import TOKEN, Fault, Hub
from tests.unit.importers.hub_job import FILES, LARGE, NAME, Machine


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """How long the hub wanted to be left alone; nobody waits here."""
    waits: list[float | None] = []
    for module in ("blob", "hub"):
        monkeypatch.setattr(
            f"lemonade_serve.importers.{module}.pause",
            lambda failures, error, stopped: waits.append(error.wait_s),
        )
    return waits


def test_files_land_in_the_hubs_cache_and_in_the_directory(machine: Machine) -> None:
    fetched = machine.fetch()
    assert machine.contents() == FILES
    assert fetched.downloaded == (True, True, True)
    assert [Path(path).read_bytes() for path in fetched.paths] == list(FILES.values())
    assert machine.partials() == []
    fractions = [fraction for _, fraction in machine.told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_the_hubs_own_library_finds_all_of_it_there(machine: Machine) -> None:
    machine.fetch()
    path = Path(snapshot_download(NAME, cache_dir=machine.cache, local_files_only=True))
    assert {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} == set(FILES)
    asked = len(machine.hub.downloads())
    snapshot_download(NAME, cache_dir=machine.cache)
    assert len(machine.hub.downloads()) == asked


def test_what_the_hubs_own_library_fetched_is_not_fetched_again(machine: Machine) -> None:
    snapshot_download(NAME, cache_dir=machine.cache)
    asked = len(machine.hub.downloads())
    assert machine.fetch().downloaded == (False, False, False)
    assert len(machine.hub.downloads()) == asked
    assert machine.contents() == FILES


def test_where_the_directory_is_on_another_disk_files_are_copied(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    machine.fetch()
    assert machine.contents() == FILES


def test_only_the_folder_below_the_directory(machine: Machine) -> None:
    listed = machine.list()
    inside = tuple(file for file in listed.files if file.path.startswith("sub/"))
    machine.run(machine.job(listed, files=inside, folder="sub"))
    assert machine.contents() == {"model.onnx": LARGE}


def test_a_cut_connection_is_gone_on_with_where_it_ended(machine: Machine) -> None:
    machine.hub.faults = [Fault(cut_after=5), Fault(cut_after=1), Fault(), Fault(cut_after=100_000)]
    machine.fetch(at_once=1)
    assert machine.contents() == FILES
    ranges = [asked.range for asked in machine.hub.downloads() if asked.range]
    assert ranges == ["bytes=5-", "bytes=6-", "bytes=100000-"]


def test_a_server_that_sends_all_of_it_again_does_no_harm(machine: Machine) -> None:
    machine.hub.ranges = False
    machine.hub.faults = [Fault(cut_after=5)]
    machine.fetch(at_once=1)
    assert machine.contents() == FILES


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again_when_it_says(
    machine: Machine, _no_pause: list[float | None], status: int
) -> None:
    busy = Fault(status=status, headers={"Retry-After": "3"})
    machine.hub.listing_faults = [busy]
    machine.hub.faults = [busy]
    machine.fetch()
    assert machine.contents() == FILES
    assert _no_pause == [3.0, 3.0]


def test_a_hub_that_stays_broken_is_given_up(machine: Machine) -> None:
    machine.hub.faults = [Fault(status=500)] * 9
    with pytest.raises(errors.HubError, match="status 500"):
        machine.fetch(at_once=1)
    assert machine.contents() == {}


def test_a_hub_that_counts_requests_says_when_it_counts_anew(
    machine: Machine, _no_pause: list[float | None]
) -> None:
    limits = {"RateLimit": '"api";r=0;t=17', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    machine.hub.listing_faults = [Fault(status=429, headers=limits)]
    machine.hub.faults = [Fault(status=429, headers={"RateLimit": '"resolvers";r=4;t=17'})]
    machine.fetch()
    assert _no_pause == [18.0, None]


def test_when_one_file_fails_the_others_are_not_asked_for(machine: Machine) -> None:
    machine.hub.add(NAME, {f"{number}.json": b"%d" % number for number in range(20)})
    machine.hub.faults = [Fault(status=500)] * 99
    with pytest.raises(errors.HubError, match="status 500"):
        machine.fetch(at_once=1, retries=2)
    assert len(machine.hub.downloads()) == 3


def test_a_digest_that_is_wrong_is_refused(machine: Machine) -> None:
    machine.hub.lie["sub/model.onnx"] = LARGE[:-1] + b"?"
    with pytest.raises(errors.JobFailed, match="not what the hub says"):
        machine.fetch()
    assert machine.contents() == {}
    names = {blob.name for blob in machine.blobs()}
    assert not any(len(name) >= 64 for name in names), names  # of the large file, not even a part


def test_a_small_file_that_is_wrong_is_refused_too(machine: Machine) -> None:
    machine.hub.lie["config.json"] = b'{"a": 2}'
    with pytest.raises(errors.JobFailed, match="not what the hub says"):
        machine.fetch()


def test_a_file_that_is_longer_than_it_should_be_is_refused(machine: Machine) -> None:
    machine.hub.lie["sub/model.onnx"] = LARGE + b"more"
    with pytest.raises(errors.JobFailed, match="longer"):
        machine.fetch()
    assert machine.contents() == {}


def test_what_another_time_left_is_of_no_use_when_it_is_wrong(machine: Machine) -> None:
    listed = machine.list()
    (large,) = (file for file in listed.files if file.sha256)
    blobs = machine.cache / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{large.sha256}.lemonade.incomplete").write_bytes(b"nonsense")
    machine.run(machine.job(listed))
    assert machine.contents() == FILES


def test_a_damaged_file_in_the_cache_is_replaced(machine: Machine) -> None:
    paths = machine.fetch().paths
    blob = Path(paths[1]).resolve()
    shutil.rmtree(machine.into)
    machine.into.mkdir()
    blob.write_bytes(b"\0" * len(LARGE))
    assert machine.fetch().downloaded == (False, True, False)
    assert machine.contents() == FILES
    assert blob.read_bytes() == LARGE


def test_two_who_want_the_same_at_once_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    machines = [Machine(hub, tmp_path / name) for name in "ab" if not (tmp_path / name).mkdir()]
    for machine in machines:
        machine.cache = tmp_path / "shared"
    released = threading.Event()
    hub.faults = [Fault(cut_after=1000, until=released)]
    with ThreadPoolExecutor(2) as together:
        first = together.submit(machines[0].fetch)
        hub.sent.acquire()
        second = together.submit(machines[1].fetch)
        released.set()
        downloaded = zip(first.result().downloaded, second.result().downloaded, strict=True)
    assert all(one != other for one, other in downloaded)
    assert len({(a.server, a.path) for a in hub.downloads()}) == len(FILES)
    assert [machine.contents() for machine in machines] == [FILES, FILES]


def test_room_is_looked_for_before_the_first_byte(machine: Machine) -> None:
    free = shutil.disk_usage(machine.into).free
    with pytest.raises(errors.DiskFull, match="min_free_bytes"):
        machine.fetch(keep_free=2 * free)
    assert machine.hub.downloads() == []


def test_a_disk_that_fills_up_keeps_nothing_of_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.DiskFull):
        machine.fetch()
    assert machine.contents() == {}
    assert machine.blobs() == []


def test_a_disk_that_fills_up_keeps_no_file_that_was_whole_either(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine.into.parent / "before").mkdir()
    before = Machine(machine.hub, machine.into.parent / "before")
    before.cache = machine.cache
    small = tuple(file for file in before.list().files if file.path == "config.json")
    before.run(before.job(before.list(), files=small))
    room = [True, False]

    def full(descriptor: int) -> None:
        if not room.pop(0):
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.DiskFull):
        machine.fetch(at_once=1)
    assert machine.contents() == {}
    assert [blob.read_bytes() for blob in machine.blobs()] == [FILES["config.json"]]


def test_no_path_leads_out_of_the_directory(machine: Machine) -> None:
    listed = machine.list()
    for path in ("../x", "/etc/x", "a/../../x"):
        file = RepositoryFile(path, 1, sha256="0" * 64)
        with pytest.raises(errors.JobFailed, match="no path"):
            machine.run(machine.job(listed, files=(file,)))


def test_a_token_is_for_the_hub_and_not_for_its_cdn(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.hub.repositories[NAME].private = True
    with pytest.raises(errors.ModelNotFound, match="HF_TOKEN"):
        machine.fetch()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    machine.fetch()
    assert machine.contents() == FILES
    tokens = {asked.server: asked.token for asked in machine.hub.downloads()}
    assert tokens == {"hub": f"Bearer {TOKEN}", "cdn": None}


def test_what_is_gated_says_where_its_terms_are(machine: Machine) -> None:
    machine.hub.repositories[NAME].gated = True
    with pytest.raises(errors.NotAllowed, match=f"accepted its terms.*{NAME}"):
        machine.fetch()


def test_what_is_not_there_is_not_found(machine: Machine) -> None:
    with pytest.raises(errors.ModelNotFound, match="no such repository"):
        machine.list(name="org/other")
    with pytest.raises(errors.ModelNotFound, match="no such revision"):
        machine.list("v9")


def test_a_hub_that_is_not_there_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(errors.HubError, match=r"127\.0\.0\.1:9 cannot be reached"):
        machine.list()


def test_offline_there_is_what_was_fetched(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.fetch()
    shutil.rmtree(machine.into)
    machine.into.mkdir()
    asked = len(machine.hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert machine.fetch().downloaded == (False, False, False)
    assert machine.contents() == FILES
    with pytest.raises(errors.HubError, match="HF_HUB_OFFLINE"):
        machine.list("v2")
    assert len(machine.hub.asked) == asked


def test_the_networks_of_a_repository_are_told_offline_too(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.list().architectures == ()
    machine.hub.add(NAME, {**FILES, "config.json": b'{"architectures": ["A", null]}'})
    assert machine.list().architectures == ("A",)
    machine.hub.add(NAME, {**FILES, "config.json": b'{"architectures": ["BertModel"]}'})
    assert machine.list().architectures == ("BertModel",)
    machine.fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert machine.list().architectures == ("BertModel",)


def test_offline_a_cache_without_links_will_do(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in machine.fetch().paths:
        content = Path(path).read_bytes()
        Path(path).unlink()
        Path(path).write_bytes(content)
    shutil.rmtree(machine.into)
    machine.into.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    machine.fetch()
    assert machine.contents() == FILES


def test_a_commit_is_as_good_as_a_branch(machine: Machine) -> None:
    machine.fetch()
    listed = machine.list(machine.list().commit)
    shutil.rmtree(machine.into)
    machine.into.mkdir()
    machine.run(machine.job(listed))
    refs = machine.cache / "models--org--model" / "refs"
    assert [ref.name for ref in refs.iterdir()] == ["main"]


def test_a_lock_that_somebody_removes_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "partial"
    with blob._locked(path) as first:
        path.unlink()
        with blob._locked(path) as second:
            assert os.fstat(first.fileno()).st_ino != os.fstat(second.fileno()).st_ino
