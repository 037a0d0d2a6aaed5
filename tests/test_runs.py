"""Run folders: finished last, verified on reading, one writer at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
from contextlib import closing
from pathlib import Path

import pytest

from edgeproof.errors import ConfigError, RunError
from edgeproof.runs import Run, atomic, sha256_file, write_json, write_text

CONFIG = {"epochs": 3, "seed": 0}


def finished(root: Path, **config: object) -> Run:
    run = Run.start("train", "toy", config={**CONFIG, **config}, seed=0, root=root)
    (run.path / "model.bin").write_bytes(b"weights")
    run.finish()
    return run


def test_a_finished_run_lists_its_files_with_their_hashes(tmp_path: Path) -> None:
    run = Run.open(finished(tmp_path).path, kind="train")
    assert run.outputs() == ["model.bin"]
    assert run.manifest is not None
    assert run.manifest.outputs[0].sha256 == sha256_file(run.file("model.bin"))
    assert run.config == CONFIG


def test_the_same_configuration_gives_the_finished_run_back(tmp_path: Path) -> None:
    first = finished(tmp_path)
    again = Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path)
    assert again.done
    assert again.path == first.path
    again.close()


def test_an_option_that_is_not_used_leaves_the_identity_as_it_was(tmp_path: Path) -> None:
    first = finished(tmp_path)
    assert finished_again(tmp_path, added_later=None, nested={}).path != first.path
    assert finished_again(tmp_path, added_later=None).path == first.path


def finished_again(root: Path, **more: object) -> Run:
    with Run.start("train", "toy", config={**CONFIG, **more}, seed=0, root=root) as run:
        return run


def test_another_configuration_gets_another_folder(tmp_path: Path) -> None:
    assert finished(tmp_path).path != finished(tmp_path, epochs=4).path


def test_an_input_counts_by_its_content(tmp_path: Path) -> None:
    source = tmp_path / "graph.onnx"
    source.write_bytes(b"one")
    with Run.start("eval", "x", config={}, inputs={"engine": source}, root=tmp_path) as first:
        source.write_bytes(b"two")
        with Run.start("eval", "x", config={}, inputs={"engine": source}, root=tmp_path) as second:
            assert first.path != second.path


def test_an_unfinished_run_is_continued_with_what_it_holds(tmp_path: Path) -> None:
    with closing(Run.start("attack", "toy", config=CONFIG, root=tmp_path)) as run:
        (run.path / "shards").mkdir()
        (run.path / "shards" / "0.npz").write_bytes(b"part")
    with Run.start("attack", "toy", config=CONFIG, root=tmp_path) as again:
        assert not again.done
        assert (again.path / "shards" / "0.npz").read_bytes() == b"part"
        again.intermediate("shards")
    assert not (again.path / "shards").exists()
    assert again.outputs() == []


def test_fresh_throws_away_what_the_folder_holds(tmp_path: Path) -> None:
    run = finished(tmp_path)
    with Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path, fresh=True) as again:
        assert again.path == run.path
        assert not again.done
        assert not (again.path / "model.bin").exists()


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    (run.path / "model.bin").write_bytes(b"tampered")
    with pytest.raises(RunError, match=r"model\.bin was changed after the run \(SHA-256 differs\)"):
        Run.open(run.path).file("model.bin")


def test_a_missing_file_and_an_unlisted_file_are_refused(tmp_path: Path) -> None:
    run = Run.open(finished(tmp_path).path)
    with pytest.raises(RunError, match=r"has no output 'other\.bin'; it has: model\.bin"):
        run.file("other.bin")
    (run.path / "model.bin").unlink()
    with pytest.raises(RunError, match="is missing, though manifest"):
        run.file("model.bin")


@pytest.mark.parametrize(
    "text, message",
    [("{", "cannot be read"), ("{}", "cannot be read"), ("[]", "cannot be read")],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    run = finished(tmp_path)
    (run.path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=message):
        Run.open(run.path)


def test_a_manifest_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    values = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(RunError, match="schema version 99; this version reads 1"):
        Run.open(run.path)


def test_what_is_not_a_finished_run_of_the_right_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder at"):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="the run was not finished"):
        Run.open(tmp_path / "empty")
    with pytest.raises(RunError, match="'train' stage; expected one of 'attack'"):
        Run.open(finished(tmp_path).path, kind="attack")


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"meow")
    for fresh in (False, True):
        with pytest.raises(RunError, match=r"not a run folder \(it holds 'cat\.png'\)"):
            Run.start("train", "x", config={}, out=tmp_path / "photos", fresh=fresh)
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"meow"


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    Run.start("train", "x", config={"seed": 1}, out=tmp_path / "here").finish()
    with pytest.raises(RunError, match="holds another finished run"):
        Run.start("train", "x", config={"seed": 2}, out=tmp_path / "here")
    Run.start("train", "x", config={"seed": 1}, out=tmp_path / "there").close()
    with pytest.raises(RunError, match="holds another unfinished run"):
        Run.start("train", "x", config={"seed": 2}, out=tmp_path / "there")


def test_an_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="cannot be written"):
        Run.start("train", "x", config={}, root=tmp_path / "file")


def _hold(root: Path, ready: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with Run.start("train", "toy", config=CONFIG, root=root):
        ready.set()
        release.wait(20)


def test_two_processes_cannot_write_one_run_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, release))
    holder.start()
    assert ready.wait(20)
    with pytest.raises(RunError, match="being written by another process"):
        Run.start("train", "toy", config=CONFIG, root=tmp_path)
    holder.kill()
    holder.join()
    Run.start("train", "toy", config=CONFIG, root=tmp_path).close()


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError), atomic(path) as temporary:
        temporary.write_text("half" + 1)  # type: ignore[operator]
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_made_again_is_recorded_again(tmp_path: Path) -> None:
    run = finished(tmp_path)
    (run.path / "model.bin").write_bytes(b"made again")
    run.amend(("model.bin",))
    assert Run.open(run.path).file("model.bin").read_bytes() == b"made again"


def test_what_is_kept_apart_is_no_output(tmp_path: Path) -> None:
    run = Run.start("study", "s", config={}, root=tmp_path)
    for name in ("study.json", "jobs/a/manifest.json", "logs/a.log"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text("{}")
    run.apart("jobs", "logs")
    run.finish()
    assert run.outputs() == ["study.json"]
    assert (run.path / "jobs/a/manifest.json").exists()


def test_a_run_is_known_by_its_identity_where_its_configuration_holds_paths(tmp_path: Path) -> None:
    known = {"model": "{train}"}
    for place in ("/here", "/there"):
        with Run.start("attack", "a", config={"model": place}, identity=known, out=tmp_path / "run") as run:
            if not run.done:
                run.finish()
    assert run.config == {"model": "/here"}


def test_what_a_killed_process_was_writing_is_swept_away_but_not_from_another_run(tmp_path: Path) -> None:
    with closing(Run.start("study", "s", config={}, out=tmp_path / "run")) as run:
        inner = Run.start("job", "j", config={}, out=run.path / "jobs" / "j")
        for folder in (run.path / "shards", inner.path):
            folder.mkdir(exist_ok=True)
            (folder / ".0.npz.123.tmp.npz").write_text("half")
    with Run.start("study", "s", config={}, out=tmp_path / "run") as again:
        assert not list((again.path / "shards").iterdir())
        assert (inner.path / ".0.npz.123.tmp.npz").exists()
    inner.close()


def test_a_run_killed_while_it_discards_is_tidied_and_nothing_outside_it(tmp_path: Path) -> None:
    run = finished(tmp_path)
    (run.path / "shards").mkdir()
    (run.path / "shards" / "0.npz").write_bytes(b"part")
    (tmp_path / "outside").write_bytes(b"mine")
    write_json(run.path / ".discard", ["shards", "..", "../outside", ".", ""])
    Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path).close()
    assert sorted(path.name for path in run.path.iterdir()) == [".identity", ".lock", "manifest.json", "model.bin"]
    assert (tmp_path / "outside").exists()


def test_a_manifest_that_lists_what_is_outside_its_folder_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path)
    values = json.loads((run.path / "manifest.json").read_text())
    values["outputs"][0]["path"] = "../../secret"
    (run.path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(RunError, match=r"lists '\.\./\.\./secret', which is not in its folder"):
        Run.open(run.path)


def test_a_folder_whose_claim_was_killed_can_be_claimed_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "..identity.123.tmp").write_text("half")
    with Run.start("train", "t", config={}, out=tmp_path / "run") as run:
        run.finish()
    assert run.outputs() == []


def test_a_write_goes_through_no_link_that_was_laid_out_for_it(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for suffix in ("", ".md"):
        (tmp_path / f".report.md.{os.getpid()}.tmp{suffix}").symlink_to(victim)
    (tmp_path / "report.md").symlink_to(victim)
    write_text(tmp_path / "report.md", "theirs")
    assert victim.read_text() == "mine"
    assert (tmp_path / "report.md").read_text() == "theirs"


def test_a_file_is_as_open_to_others_as_the_user_wants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "value.txt", "1")
    finally:
        os.umask(before)
    assert (tmp_path / "value.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", [".lock", ".identity", ".discard", "manifest.json", "model.onnx", "logs/job.log"])
@pytest.mark.parametrize("present", [True, False])
def test_a_link_in_a_run_folder_is_not_followed(tmp_path: Path, name: str, present: bool) -> None:
    run, victim = finished(tmp_path), tmp_path / "victim"
    if present:
        victim.write_text("mine")
    link = run.path / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    for fresh in (False, True):
        with pytest.raises(RunError, match=rf"holds a link, {name}; no stage makes one: remove it"):
            Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path, fresh=fresh)
    assert not present or victim.read_text() == "mine"
    assert victim.exists() == present


def test_a_folder_in_a_run_folder_is_no_link_either(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with closing(Run.start("train", "toy", config=CONFIG, root=tmp_path)) as run:
        (run.path / "state").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(RunError, match="holds a link, state"):
        Run.start("train", "toy", config=CONFIG, root=tmp_path)


def test_a_run_folder_and_the_folder_of_all_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "large-disk" / "run").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "large-disk")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "large-disk" / "run")
    for _ in range(2):
        with Run.start("train", "toy", config=CONFIG, out=tmp_path / "runs" / "linked") as run:
            if not run.done:
                run.finish()
    assert (tmp_path / "large-disk" / "run" / "manifest.json").is_file()


@pytest.mark.parametrize("name", [".lock", ".identity", ".discard", "manifest.json", "history.json"])
def test_nobody_waits_for_a_pipe_in_a_run_folder(tmp_path: Path, name: str) -> None:
    run = finished(tmp_path)
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    with pytest.raises(RunError, match=rf"holds a pipe or device, {name}; no stage makes one: remove it"):
        Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path)


def test_an_identity_that_is_no_text_is_another_runs(tmp_path: Path) -> None:
    run = finished(tmp_path)
    (run.path / ".identity").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="holds another finished run; choose another --out or add --fresh"):
        Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path)
    (run.path / "manifest.json").unlink()
    with pytest.raises(RunError, match="holds another unfinished run; choose another --out or add --fresh"):
        Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path)


@pytest.mark.parametrize("text", ["5", "{}", "[5]", "[", "\xff", "[" * 100_000, '["a\\u0000b"]'])
def test_a_damaged_list_of_what_to_discard_is_refused(tmp_path: Path, text: str) -> None:
    run = finished(tmp_path)
    (run.path / ".discard").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"\.discard is no list of names .*; repeat the command with --fresh"):
        Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path)
    with Run.start("train", "toy", config=CONFIG, seed=0, root=tmp_path, fresh=True) as again:
        assert not again.done


def test_a_refused_command_brings_back_what_fresh_was_to_replace(tmp_path: Path) -> None:
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m") as run:
        (run.path / "model.bin").write_bytes(b"weeks")
        run.finish()
    other = {**CONFIG, "model": "nonet"}
    with pytest.raises(ConfigError), Run.start("train", "toy", config=other, out=tmp_path / "m", fresh=True):
        raise ConfigError("unknown model")
    assert Run.open(tmp_path / "m").file("model.bin").read_bytes() == b"weeks"
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m") as again:
        assert again.done


def test_what_fresh_replaces_is_kept_until_the_new_run_is_finished(tmp_path: Path) -> None:
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m") as run:
        (run.path / "model.bin").write_bytes(b"first")
        run.finish()
    for content in (b"second", b"third"):  # neither is finished
        with closing(Run.start("train", "toy", config=CONFIG, out=tmp_path / "m", fresh=True)) as run:
            (run.path / "half.bin").write_bytes(content)
        assert (tmp_path / "m" / ".replaced" / "model.bin").read_bytes() == b"first"
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m") as run:
        run.finish()
    assert Run.open(tmp_path / "m").outputs() == ["half.bin"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        ".identity",
        ".lock",
        "half.bin",
        "manifest.json",
    ]


def test_a_refused_command_does_not_claim_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), Run.start("train", "toy", config={"shard": "3/2"}, out=tmp_path / "m"):
        raise ConfigError("no such shard")
    with closing(Run.start("train", "toy", config={"shard": "2/2"}, out=tmp_path / "m")) as run:
        assert not run.done


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_that_is_read_is_not_written(tmp_path: Path, fresh: bool) -> None:
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m") as run:
        (run.path / "model.bin").write_bytes(b"weeks")
        run.finish()
    for path in (tmp_path / "m", tmp_path / "m" / "model.bin"):
        with pytest.raises(RunError, match=r"is to be written and read \(model\); choose another --out"):
            Run.start("attack", "toy", config={}, inputs={"model": path}, out=tmp_path / "m", fresh=fresh)
    assert Run.open(tmp_path / "m").file("model.bin").read_bytes() == b"weeks"


def test_a_finished_run_is_what_fresh_keeps_though_it_replaced_another(tmp_path: Path) -> None:
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m") as run:
        (run.path / "model.bin").write_bytes(b"second")
        run.finish()
    (run.path / ".replaced").mkdir()  # killed between the manifest and the end
    (run.path / ".replaced" / "model.bin").write_bytes(b"first")
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m", fresh=True):
        assert (run.path / ".replaced" / "model.bin").read_bytes() == b"second"


def test_fresh_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m") as run:
        for name in ("a.bin", "b.bin"):
            (run.path / name).write_bytes(name.encode())
        run.finish()
    (run.path / ".replaced.tmp").mkdir()
    (run.path / "a.bin").rename(run.path / ".replaced.tmp" / "a.bin")
    with Run.start("train", "toy", config=CONFIG, out=tmp_path / "m", fresh=True) as again:
        assert {"a.bin", "b.bin", "manifest.json"} <= {path.name for path in (run.path / ".replaced").iterdir()}
        again.finish()
    assert sorted(path.name for path in run.path.iterdir()) == [".identity", ".lock", "manifest.json"]
