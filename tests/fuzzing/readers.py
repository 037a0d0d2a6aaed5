"""Every reader of files that need no torch, with whole files to begin from."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeproof.attacks.properties.instances import read_instances
from edgeproof.attacks.properties.vnnlib import read_vnnlib
from edgeproof.config import EvalConfig, FalsifyConfig, TrainConfig, build_config, parse_number
from edgeproof.data.arrays import write_npz
from edgeproof.data.base import AdversarialSet, LabelledImages, load_adversarial_set, load_dataset, save_adversarial_set
from edgeproof.data.cifar10 import read_cifar10
from edgeproof.data.decode import decode_images
from edgeproof.data.foreign import load_foreign_set
from edgeproof.data.idx import read_idx
from edgeproof.data.parquet import read_parquet
from edgeproof.data.perturbation import load_perturbation
from edgeproof.data.pickles import read_pickled_dict
from edgeproof.data.poison import PoisonedImages, load_poison, save_poison
from edgeproof.data.shard import parse_shard
from edgeproof.engines.specs import spec_path
from edgeproof.evaluation.bundle import open_bundle, write_bundle
from edgeproof.evaluation.costs import check_costs, read_costs
from edgeproof.evaluation.gates import parse_gates
from edgeproof.onnx_files import read_onnx
from edgeproof.reports.content import read_eval_run
from edgeproof.reports.diff import diff_runs
from edgeproof.reports.html import render_html
from edgeproof.reports.junit import render_junit
from edgeproof.reports.markdown import render_markdown
from edgeproof.runs import MANIFEST, Run
from tests.data.files import cifar_batches, cifar_binary, cifar_pickle, encode, idx_bytes, pixels, write_tar
from tests.edge.tiny_onnx import write_linear
from tests.fuzzing.mutation import (
    inside_gzip,
    inside_tar,
    inside_zip,
    mutate_bytes,
    mutate_json,
    mutate_npy,
    mutate_png,
    mutate_text,
)
from tests.fuzzing.protobuf import mutate_protobuf
from tests.fuzzing.running import Reader
from tests.reports.synthetic import gate, make_eval_run

CLASSES = ("ant", "bee", "cat")


def file_reader(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Return a reader of bytes that stand in a file of that name."""

    def reader(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return reader


def _npz_bytes(folder: Path, **arrays: Any) -> bytes:
    write_npz(folder / "seed.npz", arrays)
    return (folder / "seed.npz").read_bytes()


def _npy_bytes(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _images(count: int = 6) -> LabelledImages:
    labels = np.arange(count, dtype=np.int64) % 3
    return LabelledImages.from_arrays(pixels(count, (1, 4, 4)), labels, classes=CLASSES, name="toy", split="test")


def swap(run: Path, name: str, data: bytes) -> None:
    """Replace a file of a finished run as its author would have: with its hash and size in the manifest."""
    (run / name).write_bytes(data)
    manifest = json.loads((run / MANIFEST).read_bytes())
    for record in manifest["outputs"]:
        if record["path"] == name:
            record.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    (run / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def _in_run(name: str, read: Callable[[Run], object]) -> Callable[[bytes, Path], object]:
    """Return a reader of bytes that stand in a finished run `run` under that name."""

    def reader(data: bytes, folder: Path) -> object:
        swap(folder / "run", name, data)
        return read(Run.open(folder / "run"))

    return reader


def _of_run(make: Callable[[Path], None], *names: str) -> Callable[[Path], list[bytes]]:
    """Return what makes a run `run` and gives the bytes of one of its files."""

    def seeds(folder: Path) -> list[bytes]:
        shutil.rmtree(folder / "run", ignore_errors=True)
        make(folder / "run")
        return [(folder / "run" / name).read_bytes() for name in names]

    return seeds


def _make_attack_run(place: Path) -> None:
    clean = _images()
    made = AdversarialSet(
        name="fgsm 0.1", attack="fgsm", norm="linf", eps=0.1, images=clean.images, clean=clean,
        source_logits=np.zeros((6, 3), np.float32), source_clean_logits=np.zeros((6, 3), np.float32),
    )  # fmt: skip
    with Run.start("attack", "fgsm", config={"eps": 0.1}, out=place) as run:
        save_adversarial_set(run, made)
        run.finish()


def _make_poison_run(place: Path) -> None:
    data = _images()
    poison = PoisonedImages(
        data.images, data.labels, data.index, data.labels == 0, "toy", CLASSES, 0.1, "class-patterns"
    )
    with Run.start("poison", "toy", config={"eps": 0.1}, out=place) as run:
        save_poison(run, poison)
        run.finish()


def _make_eval_run(place: Path) -> None:
    made = make_eval_run(
        place.parent / "made", classes=CLASSES, count=12, sets=(("fgsm", 0.1), ("noise", 0.1)), gates=(gate(),)
    )
    made.finish()
    made.path.rename(place)


def _show(run: Run) -> None:
    read = read_eval_run(run)
    render_html(read), render_markdown(read), render_junit(read.results)


def _compare(run: Run) -> None:
    diff_runs(run, run)


def _make_export_run(place: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    with Run.start("export", "linear", config={}, out=place) as run:
        write_linear(place / "model.fp32.onnx", weights, classes=CLASSES)
        run.finish()


def onnx_seeds(folder: Path) -> list[bytes]:
    """Return linear classifiers in three precisions."""
    weights = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    made = [
        write_linear(
            folder / f"{precision}.onnx", weights, precision=precision, classes=CLASSES, softmax=precision == "fp16"
        )
        for precision in ("fp32", "fp16", "int8")
    ]
    return [path.read_bytes() for path in made]


def _describe_onnx(path: Path) -> None:
    summary = read_onnx(path)
    summary.signature(path), summary.classes, summary.precision


def _bundle_seeds(folder: Path) -> list[bytes]:
    for name, make in (("export-linear", _make_export_run), ("attack-fgsm", _make_attack_run)):
        shutil.rmtree(folder / name, ignore_errors=True)
        make(folder / name)
    write_bundle(
        folder / "b.zip", models=[folder / "export-linear"], sets=[folder / "attack-fgsm"], config=EvalConfig()
    )
    return [(folder / "b.zip").read_bytes()]


def _open_bundle(data: bytes, folder: Path) -> None:
    (folder / "bundle.zip").write_bytes(data)
    shutil.rmtree(folder / "unpacked", ignore_errors=True)
    open_bundle(folder / "bundle.zip", folder / "unpacked")


def _parquet_seeds(folder: Path) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    encoded = [{"bytes": encode(image), "path": None} for image in pixels(4, (1, 5, 5))[:, 0]]
    made = []
    for compression in ("snappy", "none", "zstd"):
        table = pa.table({"img": encoded, "label": np.arange(4)})
        parquet.write_table(table, folder / "seed.parquet", compression=compression)
        made.append((folder / "seed.parquet").read_bytes())
    return made


def _cifar_tar(kind: str) -> Reader:
    suffix, write = (".bin", cifar_binary) if kind == "binary" else ("", cifar_pickle)

    def seeds(folder: Path) -> list[bytes]:
        write_tar(folder / "seed.tar.gz", {f"c/test_batch{suffix}": write(*cifar_batches()["test_batch"])})
        return [(folder / "seed.tar.gz").read_bytes()]

    return Reader(
        f"cifar-tar-{kind}",
        seeds,
        file_reader(f"cifar-10-{kind}.tar.gz", lambda path: read_cifar10(path.parent, "test")),
        inside_tar(mutate_bytes),
    )


def _read_batch(data: bytes, folder: Path) -> None:
    place = folder / "batches"
    place.mkdir(exist_ok=True)
    for name in cifar_batches():
        (place / f"{name}.bin").write_bytes(data)
    read_cifar10(place, "test")


_VNNLIB = b"""; a property
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (<= X_0 0.5)) (assert (>= X_0 -0.5)) (assert (>= X_1 0)) (assert (<= X_1 1e-1))
(assert (or (and (<= (+ Y_0 (* 2.0 Y_1)) 3)) (and (>= (- Y_1) Y_0))))
"""
_CONFIG = {
    "data": {"name": "digits", "validation": 0.1},
    "epochs": 3,
    "lr": "1/10",
    "objective_params": {"eps": "8/255"},
    "model": "lenet",
}
_COSTS = b"ant,bee,cat\n0,1,2\n1,0,10\n3.5,1,0\n"
_GATES = (
    b"ort-fp32:robust_accuracy[fgsm 8/255]@cat=0.4",
    b"clean_accuracy=90/100",
    b"worst_class_robust_accuracy=0.25",
)


def _read_matrix(path: Path) -> None:
    check_costs(read_costs(path, classes=CLASSES), classes=CLASSES, source=str(path))


def _each_option(data: bytes, folder: Path) -> None:
    """Read a text as each option in turn, whatever the others say."""
    from edgeproof.errors import ToolkitError

    text = data.decode("utf-8", errors="replace").replace("\x00", "")
    readers: Sequence[Callable[[], object]] = (
        lambda: parse_gates([text], ()), lambda: parse_gates((), [text]), lambda: parse_gates((), (), [text]), lambda: parse_number(text),
        lambda: parse_shard(text), lambda: spec_path(text), lambda: build_config(TrainConfig, sets=["data.name=x", text]),
    )  # fmt: skip
    refused: list[ToolkitError] = []
    for read in readers:
        try:
            read()
        except ToolkitError as error:
            refused.append(error)
    if len(refused) == len(readers):
        raise refused[0]


def _first_dice(mutate: Callable[[bytes, random.Random], bytes], other: Callable[[bytes, random.Random], bytes]) -> Any:
    return lambda data, dice: (mutate if dice.random() < 0.5 else other)(data, dice)


_JSON_OR_TEXT = _first_dice(mutate_json, mutate_text)
_INSTANCES = b"net.onnx,prop_1.vnnlib,116\nnet.onnx,prop_2.vnnlib,60.5\n"

READERS: tuple[Reader, ...] = (
    Reader("idx", lambda _: [idx_bytes(pixels(3, (5, 4)))], file_reader("a-idx3-ubyte", lambda path: read_idx(path, ndim=3))),
    Reader(
        "idx-gz",
        lambda _: [gzip.compress(idx_bytes(pixels(3, (5, 4))), mtime=0)],
        file_reader("a-idx3-ubyte.gz", lambda path: read_idx(path, ndim=3)),
        inside_gzip(mutate_bytes),
    ),
    Reader(
        "npz",
        lambda folder: [
            _npz_bytes(folder, x_test=pixels(4, (1, 4, 4)), y_test=np.arange(4), classes=np.array(["a", "b", "c", "d"])),
            _npz_bytes(folder, x_test=np.zeros((3, 4, 4), np.float32), y_test=np.arange(3), x_train=np.ones((3, 4, 4)), y_train=np.arange(3)),
        ],
        file_reader("d.npz", lambda path: load_dataset(f"npz:{path}").train),
        inside_zip(mutate_npy),
    ),
    Reader("npy", lambda _: [_npy_bytes(np.zeros((1, 3, 3), np.float32))], file_reader("d.npy", load_perturbation), mutate_npy),
    Reader("png", lambda _: [encode(pixels(1, (3, 6, 6))[0]), encode(pixels(1, (6, 6))[0])], lambda data, _: decode_images([data], name=str), mutate_png),
    Reader("jpeg", lambda _: [encode(pixels(1, (3, 9, 9))[0], kind="JPEG")], lambda data, _: decode_images([data], name=str)),
    Reader("parquet", _parquet_seeds, file_reader("test-0.parquet", lambda path: read_parquet([path])), needs=("pyarrow",)),
    _cifar_tar("binary"),
    _cifar_tar("python"),
    Reader("cifar-batch", lambda _: [cifar_binary(*cifar_batches()["test_batch"])], _read_batch),
    Reader("cifar-pickle", lambda _: [cifar_pickle(pixels(1, (3, 2, 2)), np.array([3]))], lambda data, _: read_pickled_dict(data, what="x")),
    Reader("foreign-npz", lambda folder: [_npz_bytes(folder, x_adv=np.zeros((3, 1, 2, 2), np.float32), x=np.ones((3, 1, 2, 2), np.float32), y=np.arange(3))],
           file_reader("adv.npz", load_foreign_set), inside_zip(mutate_npy)),
    Reader("bundle", _bundle_seeds, _open_bundle, inside_zip(_JSON_OR_TEXT)),
    Reader("onnx", onnx_seeds, file_reader("m.onnx", _describe_onnx), mutate_protobuf),
    Reader("vnnlib", lambda _: [_VNNLIB], file_reader("p.vnnlib", read_vnnlib), mutate_text),
    Reader("vnnlib-gz", lambda _: [gzip.compress(_VNNLIB, mtime=0)], file_reader("p.vnnlib.gz", read_vnnlib), inside_gzip(mutate_text)),
    Reader("manifest", _of_run(_make_attack_run, MANIFEST), lambda data, folder: _manifest(data, folder), mutate_json),
    Reader("set", _of_run(_make_attack_run, "set.json"), _in_run("set.json", load_adversarial_set), mutate_json),
    Reader("adversaries", _of_run(_make_attack_run, "adversaries.npz"), _in_run("adversaries.npz", load_adversarial_set), inside_zip(mutate_npy)),
    Reader("poison", _of_run(_make_poison_run, "poison.json"), _in_run("poison.json", load_poison), mutate_json),
    Reader("poison-npz", _of_run(_make_poison_run, "poison.npz"), _in_run("poison.npz", load_poison), inside_zip(mutate_npy)),
    Reader("results", _of_run(_make_eval_run, "results.json"), _in_run("results.json", _show), mutate_json),
    Reader("results-diff", _of_run(_make_eval_run, "results.json"), _in_run("results.json", _compare), mutate_json),
    Reader("samples", _of_run(_make_eval_run, "samples.npz"), _in_run("samples.npz", _show), inside_zip(mutate_npy)),
    Reader("config", lambda _: [json.dumps(_CONFIG).encode()], file_reader("c.json", lambda path: build_config(TrainConfig, file=path, sets=["data.name=x"])), _JSON_OR_TEXT),
    Reader("costs-csv", lambda _: [_COSTS], file_reader("c.csv", _read_matrix), mutate_text),
    Reader("costs-json", lambda _: [b'{"classes": ["ant", "bee", "cat"], "costs": [[0, 1, 2], [1, 0, 10], [3.5, 1, 0]]}'], file_reader("c.json", _read_matrix), mutate_json),
    Reader("costs-npy", lambda _: [_npy_bytes(np.ones((3, 3)) - np.eye(3))], file_reader("c.npy", _read_matrix), mutate_npy),
    Reader("options", lambda _: [*_GATES, b"8/255", b"2/4", b"a=ort+fp16:x/y.onnx", b"data.validation=0.2"], _each_option, mutate_text),
    Reader("instances", lambda _: [_INSTANCES], file_reader("i.csv", lambda path: read_instances(FalsifyConfig(instances=str(path)))), mutate_text),
)  # fmt: skip


def _manifest(data: bytes, folder: Path) -> None:
    (folder / "run" / MANIFEST).write_bytes(data)
    load_adversarial_set(Run.open(folder / "run"))
