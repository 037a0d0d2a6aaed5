"""The edge bundle: packed, checked, opened, evaluated; and every way in which a zip can be wrong."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeproof.config import EvalConfig
from edgeproof.errors import DataError, RunError
from edgeproof.evaluation import bundle
from edgeproof.evaluation.bundle import check_bundle, open_bundle, write_bundle
from edgeproof.evaluation.evaluate import evaluate
from edgeproof.evaluation.results import Results
from edgeproof.runs import Run
from tests.edge.conftest import MakeSet

Members = dict[str, bytes]


@pytest.fixture
def packed(graphs: Path, make_set: MakeSet, tmp_path: Path) -> Path:
    config = EvalConfig(fail_under=("clean_accuracy=0.5",), throughput=False, invariance=0, batch_size=50)
    write_bundle(tmp_path / "edge.zip", models=[graphs], sets=[make_set(), make_set("noise")], config=config)
    return tmp_path / "edge.zip"


def run_eval(config: EvalConfig, out: Path) -> Results:
    with Run.start("eval", "test", config=config.model_dump(mode="json"), out=out) as run:
        return evaluate(config, run)


def rewrite(path: Path, change: Callable[[Members], None]) -> None:
    """Take the bundle apart, let the test change its members, and put it together again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def refused(path: Path, folder: Path, message: str) -> None:
    for attempt in (lambda: check_bundle(path), lambda: open_bundle(path, folder)):
        with pytest.raises(DataError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not folder.exists(), "nothing may be written before everything is checked"
    assert not list(folder.parent.glob("*.partial"))


def test_a_bundle_gives_the_results_of_the_runs_that_were_packed(packed: Path, graphs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    there = open_bundle(packed, tmp_path / "device" / "bundle")
    sets = (str(tmp_path / "attack-fgsm-0.1-None-True"), str(tmp_path / "attack-noise-0.1-None-True"))
    here = there.model_copy(update={"engines": (str(graphs),), "sets": sets})
    found, expected = run_eval(there, tmp_path / "there"), run_eval(here, tmp_path / "here")
    assert found.cells == expected.cells
    assert found.gates == expected.gates
    assert found.gates[0].text == "fail-under clean_accuracy=0.5"
    assert (tmp_path / "there" / "samples.npz").read_bytes() == (tmp_path / "here" / "samples.npz").read_bytes()


def test_equal_runs_give_equal_bytes(packed: Path, graphs: Path, tmp_path: Path) -> None:
    sets = [tmp_path / "attack-fgsm-0.1-None-True", tmp_path / "attack-noise-0.1-None-True"]
    config = EvalConfig(fail_under=("clean_accuracy=0.5",), throughput=False, invariance=0, batch_size=50)
    write_bundle(tmp_path / "again.zip", models=[graphs], sets=sets, config=config)
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_opening_again_uses_what_is_there_and_refuses_a_changed_folder(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "device"
    first = open_bundle(packed, folder)
    assert open_bundle(packed, folder) == first
    graph = next(folder.rglob("model.fp32.onnx"))
    graph.write_bytes(b"other")
    with pytest.raises(DataError, match=r"is not empty and does not hold this bundle \(.*model.fp32.onnx differs\)"):
        open_bundle(packed, folder)


def test_an_unfinished_and_a_changed_run_are_not_packed(graphs: Path, make_set: MakeSet, tmp_path: Path) -> None:
    attack = make_set()
    (attack / "adversaries.npz").write_bytes(b"other")
    with pytest.raises(RunError, match="was changed after the run"):
        write_bundle(tmp_path / "edge.zip", models=[graphs], sets=[attack], config=EvalConfig())
    (attack / "manifest.json").unlink()
    with pytest.raises(RunError, match="was not finished"):
        write_bundle(tmp_path / "edge.zip", models=[graphs], sets=[attack], config=EvalConfig())
    assert not (tmp_path / "edge.zip").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:evil", "a\\evil", "a//evil", "./evil"])
def test_a_member_that_leaves_the_folder_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    def change(members: Members) -> None:
        members[name] = b"x"

    rewrite(packed, change)
    refused(packed, tmp_path / "device", "could be written outside its folder; do not trust this file")


def test_nothing_is_unpacked_through_a_link_beside_the_folder(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / ".device.partial").symlink_to(tmp_path / "victim", target_is_directory=True)
    open_bundle(packed, tmp_path / "device")
    assert not list((tmp_path / "victim").iterdir())
    assert not (tmp_path / "device").is_symlink()


def test_a_link_and_a_folder_are_refused(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    with zipfile.ZipFile(packed, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(packed, tmp_path / "device", "member 'link' that is no plain file")
    packed.write_bytes(content)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("folder/", "")
    refused(packed, tmp_path / "device", "folder/'")


def graph_name(members: Members) -> str:
    return next(name for name in members if name.endswith("model.fp16.onnx"))


def test_a_changed_member_is_refused(packed: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        content = bytearray(members[graph_name(members)])
        content[100] ^= 1
        members[graph_name(members)] = bytes(content)

    rewrite(packed, change)
    refused(packed, tmp_path / "device", r"model.fp16.onnx was changed after packing \(SHA-256 differs\)")


def test_a_member_of_another_size_is_refused(packed: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        members[graph_name(members)] += bytes(2**20)

    rewrite(packed, change)
    refused(packed, tmp_path / "device", r"model.fp16.onnx has \d+ bytes where bundle.json says \d+")


def test_a_member_that_unpacks_to_more_than_it_says_is_refused(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        size = archive.getinfo(next(n for n in archive.namelist() if n.endswith("adversaries.npz"))).file_size
    # The central directory says one byte less than there is, and so does the list.
    content = packed.read_bytes().replace(size.to_bytes(4, "little"), (size - 1).to_bytes(4, "little"))
    packed.write_bytes(content)
    refused(packed, tmp_path / "device", "adversaries.npz")


def test_missing_unlisted_and_double_members_are_refused(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    rewrite(packed, lambda members: members.pop(graph_name(members)) and None)  # type: ignore[func-returns-value]
    refused(packed, tmp_path / "device", "bundle.json lists .*model.fp16.onnx', and the zip lacks it")
    packed.write_bytes(content)
    rewrite(packed, lambda members: members.update(extra=b"x"))
    refused(packed, tmp_path / "device", "bundle.json does not list 'extra', and the zip has it")
    packed.write_bytes(content)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("bundle.json", "{}")
    refused(packed, tmp_path / "device", "two members of one name")


def test_too_large_a_bundle_is_refused(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_MAX_BYTES", 1000)
    refused(packed, tmp_path / "device", r"would unpack to \d+ bytes; the limit is 1000")
    monkeypatch.setattr(bundle, "_MAX_MEMBERS", 3)
    refused(packed, tmp_path / "device", r"has \d+ members; the limit is 3")


def test_what_is_no_bundle_is_refused(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    for broken in (b"", b"no zip", content[: len(content) // 2]):
        packed.write_bytes(broken)
        refused(packed, tmp_path / "device", "cannot be opened as a bundle")
    packed.write_bytes(content)
    rewrite(packed, lambda members: members.update({"bundle.json": b"{}"}))
    refused(packed, tmp_path / "device", "has no bundle.json that can be read")
    packed.write_bytes(content)

    def later(members: Members) -> None:
        members["bundle.json"] = json.dumps({**json.loads(members["bundle.json"]), "schema_version": 2}).encode()

    rewrite(packed, later)
    refused(packed, tmp_path / "device", "has schema version 2; this version reads 1")


def test_a_bundle_of_another_versions_configuration_is_told(packed: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        manifest = json.loads(members["bundle.json"])
        manifest["config"]["unheard_of"] = 1
        members["bundle.json"] = json.dumps(manifest).encode()

    rewrite(packed, change)
    with pytest.raises(DataError, match="its configuration is not understood"):
        open_bundle(packed, tmp_path / "device")
    assert not (tmp_path / "device").exists()


def test_a_bundle_that_names_what_is_not_in_it_is_refused(packed: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        manifest = json.loads(members["bundle.json"])
        manifest["config"]["engines"] = ["../../elsewhere"]
        members["bundle.json"] = json.dumps(manifest).encode()

    rewrite(packed, change)
    with pytest.raises(DataError, match=r"its configuration names '../../elsewhere', which is not packed"):
        open_bundle(packed, tmp_path / "device")
    assert not (tmp_path / "device").exists()


@pytest.mark.parametrize("key", ["data", "costs"])
def test_a_bundle_that_names_a_file_of_the_device_is_refused(key: str, packed: Path, tmp_path: Path) -> None:
    def change(members: Members) -> None:
        manifest = json.loads(members["bundle.json"])
        manifest["config"][key] = "folder:/home/someone/photos"
        members["bundle.json"] = json.dumps(manifest).encode()

    rewrite(packed, change)
    with pytest.raises(DataError, match=f"its configuration names {key}, a file of this machine"):
        open_bundle(packed, tmp_path / "there")
    assert not (tmp_path / "there").exists()
