"""Where data sets are looked for, and downloads from a server on this machine."""

from __future__ import annotations

import functools
import gc
import hashlib
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgeproof.data import cifar10, idx
from edgeproof.data.source import RemoteFile, download, find_dataset
from edgeproof.errors import DataError, UnavailableError

CONTENT = bytes(range(256)) * 9000


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "toy.bin").write_bytes(CONTENT)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EDGEPROOF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgeproof"


def toy(place: str, *, content: bytes = CONTENT, name: str = "toy.bin") -> RemoteFile:
    return RemoteFile(f"{place}/{name}", hashlib.sha256(content).hexdigest(), len(content))


def holds_toy(folder: Path) -> bool:
    return (folder / "toy.bin").is_file()


def test_a_missing_data_set_is_downloaded_once_into_the_cache(server: str, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("pooch")
    assert find_dataset("toy", complete=holds_toy, remote=[toy(server)]) == cache / "toy"
    assert (cache / "toy" / "toy.bin").read_bytes() == CONTENT
    (tmp_path / "served" / "toy.bin").unlink()
    assert find_dataset("toy", complete=holds_toy, remote=[toy(server)]) == cache / "toy"


def test_a_file_with_another_hash_is_refused_and_not_kept(server: str, tmp_path: Path) -> None:
    pytest.importorskip("pooch")
    with pytest.raises(DataError, match=r"toy.bin cannot be downloaded .*hash.* put toy.bin into .*/into yourself"):
        download(toy(server, content=b"something else"), tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # urllib3 leaves a refused one to the collector
@pytest.mark.parametrize("name", ["absent.bin", "toy.bin"])
def test_a_failed_download_says_where_to_put_the_file(server: str, tmp_path: Path, name: str) -> None:
    pytest.importorskip("pooch")
    place = server if name == "absent.bin" else "http://127.0.0.1:9"
    with pytest.raises(DataError, match=f"{name} cannot be downloaded .*; put {name} into .*/into yourself") as caught:
        download(toy(place, name=name), tmp_path / "into")
    assert "\n" not in str(caught.value)
    del caught  # it holds the connection
    gc.collect()  # here, where the warning is allowed, and not in whichever test comes next


def test_without_pooch_the_line_names_the_extra_and_the_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(UnavailableError, match=r"put toy.bin into .*/edgeproof/toy yourself.*edgeproof\[data\]"):
        find_dataset("toy", complete=holds_toy, remote=[toy("http://127.0.0.1:9")])


def test_the_folder_of_the_variable_comes_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "mine" / "toy", cache / "toy"):
        folder.mkdir(parents=True)
        (folder / "toy.bin").touch()
    assert find_dataset("toy", complete=holds_toy, remote=[]) == cache / "toy"
    monkeypatch.setenv("EDGEPROOF_DATA", str(tmp_path / "mine"))
    assert find_dataset("toy", complete=holds_toy, remote=[]) == tmp_path / "mine" / "toy"


def test_a_wrong_or_incomplete_folder_of_the_variable_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPROOF_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match=r"EDGEPROOF_DATA = '.*typo' is no folder"):
        find_dataset("toy", complete=holds_toy, remote=[toy("http://127.0.0.1:9")])
    (tmp_path / "typo" / "toy").mkdir(parents=True)
    with pytest.raises(DataError, match=r"typo/toy does not hold all of toy; expected toy.bin"):
        find_dataset("toy", complete=holds_toy, remote=[toy("http://127.0.0.1:9")])


def test_downloads_come_over_https_with_a_whole_hash() -> None:
    files = [*idx._MNIST_FILES, *idx._FASHION_FILES, *cifar10._FILES]
    assert len({file.sha256 for file in files}) == len(files) == 9
    for file in files:
        assert file.url.startswith("https://")
        assert len(bytes.fromhex(file.sha256)) == 32
