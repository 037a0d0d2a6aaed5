"""A user's own images in folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from edgeproof.config import DataConfig
from edgeproof.data.base import load_dataset, load_part
from edgeproof.errors import ConfigError, DataError
from tests.data.files import pixels, write_image


def write_classes(folder: Path, sizes: dict[str, int], *, shape: tuple[int, ...] = (3, 6, 5), seed: int = 0) -> None:
    for name, size in sizes.items():
        for number, image in enumerate(pixels(size, shape, seed=seed + len(name))):
            write_image(folder / name / f"{number:03}.png", image)


def test_train_and_test_folders_are_read_as_they_are(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"stop": 3, "give way": 5})
    write_classes(tmp_path / "test", {"stop": 2, "give way": 1}, seed=7)
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.train is not None
    assert dataset.train.classes == ("give way", "stop")
    assert dataset.train.name == f"folder:{tmp_path.name}"
    assert (dataset.train.labels.tolist(), dataset.test.labels.tolist()) == ([0] * 5 + [1] * 3, [0, 1, 1])
    np.testing.assert_array_equal(np.rint(dataset.train.images[5:] * 255), pixels(3, (3, 6, 5), seed=4))
    assert dataset.train.input_shape == (3, 6, 5)


def test_forty_three_unequal_classes_are_split_by_class(tmp_path: Path) -> None:
    sizes = {f"{label:05}": 2 + label % 7 for label in range(43)}
    write_classes(tmp_path, sizes, shape=(4, 4))
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.train is not None
    assert (dataset.test.num_classes, dataset.test.input_shape) == (43, (1, 4, 4))
    trained, tested = (np.bincount(part.labels, minlength=43) for part in (dataset.train, dataset.test))
    assert (trained + tested).tolist() == list(sizes.values())
    assert tested.tolist() == [max(1, round(0.2 * size)) for size in sizes.values()]
    assert sorted([*dataset.train.index, *dataset.test.index]) == list(range(sum(sizes.values())))
    again = load_dataset(f"folder:{tmp_path}")
    np.testing.assert_array_equal(again.test.index, dataset.test.index)


def test_the_test_fraction_can_be_set(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 10, "b": 6})
    test = load_dataset(f"folder:{tmp_path}", params={"test_fraction": 0.5}).test
    assert np.bincount(test.labels).tolist() == [5, 3]
    with pytest.raises(ConfigError, match="test_fraction = 1; expected a number between 0 and 1"):
        load_dataset(f"folder:{tmp_path}", params={"test_fraction": 1.0})


def test_a_large_test_fraction_leaves_something_to_train_on(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 10, "bb": 2})
    train = load_dataset(f"folder:{tmp_path}", params={"test_fraction": 0.9}).train
    assert train is not None
    assert np.bincount(train.labels).tolist() == [1, 1]


def test_a_test_folder_alone_can_be_evaluated(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", {"a": 2, "b": 1})
    dataset = load_dataset(f"folder:{tmp_path}")
    assert dataset.train is None
    assert len(dataset.test) == 3


def test_grey_stays_one_channel_and_a_palette_becomes_three(tmp_path: Path) -> None:
    write_classes(tmp_path / "grey" / "test", {"a": 1, "b": 1}, shape=(4, 4))
    assert load_dataset(f"folder:{tmp_path / 'grey'}").test.input_shape == (1, 4, 4)
    for name in "ab":
        (tmp_path / "palette" / "test" / name).mkdir(parents=True)
        image = Image.fromarray(np.full((4, 4, 3), (200, 10, 0), np.uint8)).convert("P")
        image.save(tmp_path / "palette" / "test" / name / "0.png")
    colour = load_dataset(f"folder:{tmp_path / 'palette'}").test
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(np.rint(colour.images[0] * 255), expected)


def test_jpegs_are_read_and_bookkeeping_is_passed_over(tmp_path: Path) -> None:
    for name, suffix in (("a", "jpg"), ("b", "JPEG")):
        write_image(tmp_path / "test" / name / f"0.{suffix}", np.full((3, 4, 4), 90, np.uint8), kind="JPEG")
        (tmp_path / "test" / name / ".DS_Store").touch()
        (tmp_path / "test" / name / "labels.csv").touch()
    (tmp_path / "test" / ".git").mkdir()
    test = load_dataset(f"folder:{tmp_path}").test
    assert (len(test), test.classes) == (2, ("a", "b"))
    assert np.abs(test.images * 255 - 90).max() <= 1


def test_many_images_are_decoded_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeproof.data.decode._THREADED_BYTES", 0)
    monkeypatch.setattr("edgeproof.data.decode._IMAGES_A_TASK", 3)
    write_classes(tmp_path / "test", {"a": 20, "bb": 11})
    images = load_dataset(f"folder:{tmp_path}").test.images
    expected = np.concatenate([pixels(20, (3, 6, 5), seed=1), pixels(11, (3, 6, 5), seed=2)])
    np.testing.assert_array_equal(np.rint(images * 255), expected)


def test_a_missing_folder_or_class_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder at .*absent; expected one with train/ and test/"):
        load_dataset(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match=r"has 0 class folder\(s\); expected at least two"):
        _ = load_dataset(f"folder:{tmp_path}").train
    write_classes(tmp_path / "test", {"a": 2, "b": 1})
    write_classes(tmp_path / "train", {"a": 2, "b": 1, "c": 1})
    with pytest.raises(DataError, match="class 'c' is only in one of train/ and test/"):
        _ = load_dataset(f"folder:{tmp_path}").train


def test_a_folder_that_is_one_too_high_is_not_taken_for_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"a": 2, "b": 2})
    write_classes(tmp_path / "val", {"a": 2, "b": 2})
    with pytest.raises(DataError, match="has train/ and no test/; rename val/ to test/"):
        load_dataset(f"folder:{tmp_path}")
    (tmp_path / "train").rename(tmp_path / "other")
    with pytest.raises(
        DataError, match=r"class folder .*/other holds the folder 'a'; expected images: is PATH one too"
    ):
        load_dataset(f"folder:{tmp_path}")


def test_an_empty_folder_is_a_class_without_images_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for part in ("train", "test"):
        write_classes(tmp_path / part, {"a": 2, "c": 2})
        (tmp_path / part / "b").mkdir()
    test = load_dataset(f"folder:{tmp_path}").test
    assert (test.classes, test.labels.tolist()) == (("a", "b", "c"), [0, 0, 2, 2])
    assert "class 'b' has no images, and is a class all the same" in caplog.text


def test_folders_without_any_image_are_one_clear_error(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "clip.mp4").write_bytes(b"video")
    with pytest.raises(
        DataError, match=r"holds no images in its 2 class folders; add some: 2 \.mp4 such as .*clip\.mp4"
    ):
        load_dataset(f"folder:{tmp_path}")


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 1})
    with pytest.raises(DataError, match="class 'b' has one image; expected one to train on and one to test"):
        _ = load_dataset(f"folder:{tmp_path}").train


def test_mixed_sizes_and_channels_are_one_clear_error(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    write_image(tmp_path / "b" / "zzz.png", pixels(1, (3, 7, 5))[0])
    with pytest.raises(
        DataError, match=r"b/zzz.png is \(3, 7, 5\) and .*a/000.png is \(3, 6, 5\); expected one \(C, H, W\)"
    ):
        _ = load_dataset(f"folder:{tmp_path}").train
    write_image(tmp_path / "b" / "zzz.png", pixels(1, (6, 5))[0])
    with pytest.raises(DataError, match=r"b/zzz.png is \(1, 6, 5\).*make them all grey or all colour"):
        _ = load_dataset(f"folder:{tmp_path}").train


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_a_bad_image_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "b" / "001.png").write_bytes(content)
    with pytest.raises(DataError, match=r"b/001.png cannot be read as an image"):
        _ = load_dataset(f"folder:{tmp_path}").train


def test_nobody_waits_for_a_pipe_that_is_named_like_an_image(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    os.mkfifo(tmp_path / "b" / "z.png")
    with pytest.raises(DataError, match=r"b/z\.png is no file; move it out of the folder"):
        load_dataset(f"folder:{tmp_path}")


def test_an_image_may_be_a_link(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "b" / "z.png").symlink_to(tmp_path / "b" / "000.png")
    train = load_dataset(f"folder:{tmp_path}").train
    assert train is not None
    assert np.bincount(train.labels).tolist() == [1, 2]


def test_a_truncated_image_is_one_clear_error(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2}, shape=(3, 40, 40))
    path = tmp_path / "a" / "001.png"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"a/001.png cannot be read as an image \(.*truncated"):
        _ = load_dataset(f"folder:{tmp_path}").train


def test_a_damaged_file_that_is_named_like_an_image_is_not_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", {"a": 2, "b": 2})
    (tmp_path / "test" / "a" / "00001.ppm").touch()
    with pytest.raises(DataError, match=r"a/00001.ppm cannot be read as an image"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF"])
@pytest.mark.parametrize("ending", ["jpg", "TIF", "webp", "img", "001"])
def test_an_image_is_read_by_its_content_whatever_its_name_ends_in(tmp_path: Path, kind: str, ending: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    write_classes(tmp_path / "test", {"a": 2, "b": 2}, shape=(3, 16, 16))
    path = tmp_path / "test" / "b" / f"x.{ending}"
    lossless = {"lossless": True} if kind == "WEBP" else {}
    Image.new("RGB", (16, 16), (128, 128, 128)).save(path, kind, **lossless)
    test = load_dataset(f"folder:{tmp_path}").test
    assert test.labels.tolist() == [0, 0, 1, 1, 1]
    assert np.abs(test.images[-1] * 255 - 128).max() <= 2


def test_files_that_are_no_images_are_counted_and_named_and_hidden_ones_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_classes(tmp_path / "test", {"a": 2, "b": 2})
    for name in ("a/x.heic", "a/y.heic", "b/notes.txt", "a/.DS_Store", "b/Thumbs.db"):
        (tmp_path / "test" / name).write_bytes(b"\0\0\0\x18ftypheic")
    assert len(load_dataset(f"folder:{tmp_path}").test) == 4
    assert "3 files are no images and are left out: 2 .heic such as " in caplog.text
    assert "1 .txt such as " in caplog.text
    assert not any(hidden in caplog.text for hidden in ("DS_Store", "Thumbs"))


def test_a_heic_image_called_jpg_is_named_as_what_it_is(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", {"a": 2, "b": 2})
    (tmp_path / "test" / "a" / "0.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1")
    with pytest.raises(DataError, match=r"a/0.jpg is a HEIC image, which is not read here; convert it"):
        load_dataset(f"folder:{tmp_path}")


def test_an_animation_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "test", {"a": 2, "b": 2})
    first, *others = [Image.new("L", (5, 6), level) for level in (0, 90, 250)]
    first.save(tmp_path / "test" / "a" / "x.gif", save_all=True, append_images=others)
    with pytest.raises(DataError, match=r"a/x.gif is GIF of 3 images; expected one"):
        load_dataset(f"folder:{tmp_path}")


def test_folders_named_by_numbers_are_in_the_order_of_the_numbers_and_the_split_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_classes(tmp_path / "numbers", {str(number): 5 for number in range(12)})
    write_classes(tmp_path / "names", {f"c{number}": 5 for number in range(12)})
    numbers, names = (load_dataset(f"folder:{tmp_path / kind}").test for kind in ("numbers", "names"))
    assert numbers.classes == tuple(map(str, range(12)))
    assert "in the order of the numbers, not 0, 1, 10, 11, ..., in which torchvision's ImageFolder" in caplog.text
    np.testing.assert_array_equal(numbers.index, names.index)  # the same files are held out as where names are text
    assert [numbers.classes[label] for label in numbers.labels] == [names.classes[label][1:] for label in names.labels]


def test_the_split_of_a_folder_without_test_is_said_and_all_takes_every_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write_classes(tmp_path, {"a": 10, "b": 1})
    with pytest.raises(DataError, match="attack and eval take all images with --split all"):
        load_dataset(f"folder:{tmp_path}")
    whole = load_part(DataConfig(name=f"folder:{tmp_path}"), "all")
    assert (len(whole), whole.split, whole.index.tolist()) == (11, "all", list(range(11)))
    write_classes(tmp_path, {"a": 10, "b": 10})
    assert len(load_part(DataConfig(name=f"folder:{tmp_path}"), "test")) == 4
    assert "4 of its 20 images are the test images and 16 are for training" in caplog.text
    with pytest.raises(ConfigError, match=r"digits.*split"):
        load_part(DataConfig(name="digits"), "all")


def test_a_palette_with_transparency_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    Image.new("P", (5, 6)).save(tmp_path / "a" / "000.png", transparency=0)
    with pytest.raises(DataError, match=r"a/000.png has mode P or transparency"):
        _ = load_dataset(f"folder:{tmp_path}").train


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "CMYK"])
def test_transparency_and_deep_colour_are_refused(tmp_path: Path, mode: str) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    path = tmp_path / "a" / "000.png"
    Image.new(mode, (5, 6)).save(path, "JPEG" if mode == "CMYK" else "PNG")
    with pytest.raises(DataError, match=f"a/000.png has mode {mode} or transparency; expected 8-bit grey or RGB"):
        _ = load_dataset(f"folder:{tmp_path}").train


def test_an_absurdly_large_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 2, "b": 2})
    path = tmp_path / "b" / "000.png"
    data = bytearray(path.read_bytes())
    data[16:24] = (12_000).to_bytes(4, "big") + (6_000).to_bytes(4, "big")
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"b/000.png has 12000x6000 pixels; expected at most 16777216 in all"):
        _ = load_dataset(f"folder:{tmp_path}").train
