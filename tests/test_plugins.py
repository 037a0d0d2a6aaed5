"""Plug-ins of the user's own: how they are found, what is refused in one line, and what a run remembers of them."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeproof
from edgeproof.errors import ConfigError, PluginError, RunError
from edgeproof.plugins.importing import PLUGINS, name_plugin, sources_of
from edgeproof.plugins.parameters import read_params
from edgeproof.plugins.registry import entries, find
from edgeproof.runs import Run

HEAD = "import edgeproof\n\n"
DATA = (
    HEAD
    + '@edgeproof.register("mine", kind="data")\ndef mine(*, size: int = 3):\n    """Mine.\n\n    Args:\n        size: Of it.\n    """\n    return size\n'
)


@pytest.fixture(autouse=True)
def _no_plugin_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(PLUGINS, "")
    path = list(sys.path)
    yield
    sys.path[:] = path


def write(folder: Path, text: str = DATA, name: str = "my_plugins.py") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def cli(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeproof", *words], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip


def test_a_named_file_is_listed_with_its_parameters_and_is_not_run(tmp_path: Path) -> None:
    name_plugin(str(write(tmp_path, "raise RuntimeError\n" + DATA)))
    entry = find("data", "mine")
    assert [(param.name, param.annotation, param.default) for param in entry.params] == [("size", "int", 3)]
    with pytest.raises(PluginError, match=r"my_plugins.py cannot be imported \(RuntimeError"):
        entry.load()


def test_a_named_file_is_a_module_of_a_stable_name_also_in_another_process(tmp_path: Path) -> None:
    name_plugin(str(write(tmp_path)))
    function = find("data", "mine").load()
    assert function.__module__ == "edgeproof.plugins.files.my_plugins"
    code = f"import importlib; print(importlib.import_module({function.__module__!r}).mine(size=7))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert found.stdout == "7\n", found.stderr


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        name_plugin(str(write(tmp_path / folder)))
    with pytest.raises(PluginError, match=r"two plug-ins are called my_plugins.py: .*a/my_plugins.py and .*rename one"):
        entries("data")


def test_modules_and_packages_are_named_by_their_import_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my_package", "raise RuntimeError\n", "__init__.py")
    write(tmp_path / "my_package", DATA, "sets.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    for text in ("my_package.sets", "my_package"):
        monkeypatch.setenv(PLUGINS, text)
        assert find("data", "mine").module == "my_package.sets"


def test_the_environment_names_files_with_commas_or_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write(tmp_path), write(tmp_path, DATA.replace("mine", "other"), "more.py")
    for separator in (",", os.pathsep):
        monkeypatch.setenv(PLUGINS, f"{first}{separator}{second}")
        assert {"mine", "other"} <= set(entries("data"))


def test_an_entry_point_of_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my_package", "", "__init__.py")
    write(tmp_path / "my_package", DATA, "sets.py")
    about = tmp_path / "my_package-1.0.dist-info"
    write(about, "Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n", "METADATA")
    write(about, "[edgeproof.plugins]\nsets = my_package.sets\n", "entry_points.txt")
    assert "mine" not in entries("data")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("data", "mine").load()() == 3
    write(tmp_path / "my_package", "x = 1\n", "sets.py")
    with pytest.raises(PluginError, match=r"entry point 'sets' of package my-package 1.0: .*sets.py registers nothing"):
        entries("data")


def test_an_imported_module_registers_its_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, DATA.replace("mine", "scripted"), "my_script.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("edgeproof.plugins.registry._REGISTERED", {})
    importlib.import_module("my_script")
    assert find("data", "scripted").load()(size=5) == 5
    with pytest.raises(PluginError, match="no function at the top level"):

        @edgeproof.register("inner", kind="data")
        def inner() -> int:
            return 3

    assert "inner" not in entries("data")


ATTACK = (
    HEAD
    + '@edgeproof.register("mine", kind="attack", norm="linf", access="gradients")\ndef mine(model, x, y, *, eps{}):\n    """Mine."""\n'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", "line 1: invalid syntax; expected Python"),
        ("x = 1\n", "registers nothing; expected a function under @edgeproof.register"),
        (DATA.replace(', kind="data"', ""), "'mine' has no kind; expected @register"),
        (DATA.replace('"data"', '"date"'), r"kind = 'date' is not known \(did you mean 'data'\?\); expected attack, data"),
        (DATA.replace('"data"', "KIND"), r"kind = KIND is not written out; expected literals"),
        (DATA.replace('"mine"', '"My_Set"'), "the name 'My_Set' is not accepted; expected small letters"),
        (DATA.replace('"mine"', '"digits"'), "the data name 'digits' is taken by this toolkit; rename it"),
        (DATA + DATA, "the data name 'mine' is taken by .*my_plugins.py; rename it"),
        (DATA.replace("size: int", "size"), "the parameter 'size' has no annotation.*such as size: float"),
        (DATA.replace("= 3", "= SIZE"), "the default size = SIZE is not written out"),
        (DATA.replace("*, size", "size"), r"'mine' has size before the '\*'; expected def mine\(\*, ...\)"),
        (DATA.replace("= 3", "= 3, **more"), r"takes \*args or \*\*kwargs"),
        (DATA.replace('kind="data"', 'kind="data", paths=True'), r"has the option 'paths' \(did you mean 'path'\?\)"),
        (DATA.replace("def mine", "async def mine"), "is no function at the top level"),
        (ATTACK.format("").replace(', norm="linf"', ""), 'does not say its norm; expected .*"linf" or "l2"'),
        (ATTACK.format("").replace('"linf"', '"l1"'), "norm = 'l1' is not accepted; expected \"linf\" or \"l2\""),
        (ATTACK.format("").replace("*, eps", "*, steps: int = 1"), r"no parameter 'eps' behind the '\*'; expected def mine\(model, x, y, \*, eps"),
        (ATTACK.format("").replace("x, y", "x"), r"has model, x before the '\*'"),
        (HEAD + '@edgeproof.register("mine", kind="engine")\ndef mine(path, *, device, options):\n    ...\n', "does not say its suffixes"),
        (HEAD + '@edgeproof.register("mine", kind="engine", suffixes=(".x",), short="ort")\ndef mine(path, *, device, options):\n    ...\n', "the engine name 'ort' is taken"),
    ],
)  # fmt: skip
def test_what_is_not_a_plug_in_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    name_plugin(str(write(tmp_path, text)))
    with pytest.raises(PluginError, match=message) as caught:
        entries("data")
    assert "\n" not in str(caught.value)
    assert "my_plugins.py" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere.py", "no plug-in at .*nowhere.py; expected a Python file"),
        ("no_such_module_here", "no module 'no_such_module_here' is found"),
        ("a,b.py", "has a ',' in its path"),
        ("two.dots.py", "no plug-in at"),
    ],
)
def test_a_plug_in_that_is_not_there_is_refused_where_it_is_named(text: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        name_plugin(text)
    assert not os.environ[PLUGINS]


def test_an_annotation_that_no_text_fits_is_refused(tmp_path: Path) -> None:
    name_plugin(str(write(tmp_path, DATA.replace("size: int = 3", "size: dict = None"))))
    with pytest.raises(ConfigError, match="size is annotated dict, which cannot be read from a command line"):
        read_params(find("data", "mine"), {"size": "3"})


def test_a_name_that_exists_for_the_type_checker_alone_is_refused(tmp_path: Path) -> None:
    text = "from __future__ import annotations\n" + DATA.replace("size: int", "size: Size")
    name_plugin(str(write(tmp_path, text)))
    with pytest.raises(PluginError, match=r"the annotations of 'mine' cannot be read .*'Size' is not defined"):
        read_params(find("data", "mine"), {})


def start(tmp_path: Path, config: dict[str, object], kind: str = "train") -> Run:
    with Run.start(kind, "x", config=config, root=tmp_path / "runs") as run:
        if not run.done:
            run.finish()
        return run


def test_a_byte_of_a_plug_in_makes_another_run_of_those_that_use_it_alone(tmp_path: Path) -> None:
    other = start(tmp_path, {"data": {"name": "digits"}})
    file = write(tmp_path, HEAD + "import my_neighbour\n" + DATA)
    neighbour = write(tmp_path, "x = 1\n", "my_neighbour.py")
    name_plugin(str(file))
    used = {"data": {"name": "mine"}}
    paths = [start(tmp_path, used).path for _ in range(2)]
    for changed in (file, neighbour):
        changed.write_text(changed.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        paths.append(start(tmp_path, used).path)
    assert paths[0] == paths[1]
    assert len(set(paths)) == 3
    assert start(tmp_path, {"data": {"name": "digits"}}).path == other.path
    manifest = json.loads((paths[-1] / "manifest.json").read_text(encoding="utf-8"))
    roles = {record["role"]: record["path"] for record in manifest["inputs"]}
    assert roles == {"plug-in data mine": str(file), "plug-in data mine: my_neighbour.py": str(neighbour)}


def test_a_changed_plug_in_is_imported_again_for_the_next_run(tmp_path: Path) -> None:
    file = write(tmp_path)
    name_plugin(str(file))
    assert find("data", "mine").load()() == 3
    file.write_text(DATA.replace("= 3", "= 4"), encoding="utf-8")
    start(tmp_path, {"data": {"name": "mine"}})
    assert find("data", "mine").load()() == 4


def test_the_run_of_a_changed_factory_is_another_one_and_so_is_what_attacks_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "x = 1\n", "my_factory.py")
    monkeypatch.chdir(tmp_path)
    trained = start(tmp_path, {"model": "my_factory:Net"})
    attacked = Run.start("attack", "a", config={}, inputs={"model": trained.path}, root=tmp_path / "runs")
    attacked.close()
    write(tmp_path, "x = 2\n", "my_factory.py")
    assert start(tmp_path, {"model": "my_factory:Net"}).path != trained.path
    again = Run.start("attack", "a", config={}, inputs={"model": trained.path}, root=tmp_path / "runs")
    again.close()
    assert again.path != attacked.path
    with pytest.raises(RunError, match="holds another unfinished run; choose another --out or add --fresh"):
        Run.start("attack", "a", config={}, inputs={"model": trained.path}, out=attacked.path)


def test_an_engine_counts_where_a_spec_names_it_or_it_alone_opens_the_file(tmp_path: Path) -> None:
    text = (
        HEAD
        + '@edgeproof.register("mine", kind="engine", suffixes=(".onnx", ".mine"), short="my")\ndef mine(path, *, device, options):\n    """Mine."""\n'
    )
    name_plugin(str(write(tmp_path, text)))
    used = {spec: bool(start(tmp_path, {"engines": [spec]}, "eval").manifest.inputs) for spec in (  # type: ignore[union-attr]
        "mine:a.onnx", "x=my+fp16:a.onnx", "a.mine", "a.onnx", "x=ort:a.onnx", "openvino:a.onnx",
    )}  # fmt: skip
    assert used == {
        "mine:a.onnx": True, "x=my+fp16:a.onnx": True, "a.mine": True, "a.onnx": False, "x=ort:a.onnx": False, "openvino:a.onnx": False,
    }  # fmt: skip


def test_sources_are_the_file_and_what_it_imports_from_its_own_package(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    for name, text in (
        ("__init__.py", ""),
        ("one.py", "import json\nfrom pack import two\n"),
        ("two.py", "from . import three\n"),
        ("three.py", "import torch\n"),
        ("four.py", ""),
    ):
        write(package, text, name)
    found = [path.name for path in sources_of(package / "one.py")]
    assert found == ["one.py", "__init__.py", "three.py", "two.py"]


def test_plugin_is_taken_before_and_behind_a_verb_and_help_shows_the_options_without_torch(tmp_path: Path) -> None:
    write(tmp_path, ATTACK.format(", size: int = 3"), "mine.py")
    for words in (
        ("--plugin", "mine.py", "attack", "mine", "--help"),
        ("attack", "mine", "--plugin=mine.py", "--help"),
    ):
        done = cli(*words, cwd=tmp_path)
        assert "--size INTEGER" in done.stdout, done.stderr
    done = cli("attack", "mine", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr.startswith("error: unknown attack 'mine'")) == (2, True)
    assert "--plugin FILE.py" in done.stderr
    code = "import sys; from edgeproof.plugins.registry import entries; assert 'mine' in entries('attack'); sys.exit('torch' in sys.modules)"
    env = {**os.environ, PLUGINS: str(tmp_path / "mine.py")}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False, timeout=60).returncode == 0


def test_a_parameter_whose_option_is_taken_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ATTACK.format(", limit: int = 3"), "mine.py")
    done = cli("attack", "mine", "--plugin", "mine.py", "--help", cwd=tmp_path)
    assert done.returncode == 2
    assert "has a parameter for --limit, which is an option of every attack; rename the parameter" in done.stderr
