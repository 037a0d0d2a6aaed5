"""Class names: read from a file, chosen by an option, and matched between a model and the images that it is given.

A model numbers its classes in an order of its own, and a data set in another; what joins the two is the names.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgeproof.data.base import LabelledImages
from edgeproof.data.source import MAX_CLASSES
from edgeproof.errors import ConfigError, DataError, nearest, one_line
from edgeproof.system.untrusted import is_text, read_index, read_json
from edgeproof.types import Array

LOG = logging.getLogger(__name__)
_MAX_BYTES = 2**24  # of a file of names: 25,000 of 600 letters each
_SHOWN = 4
_LISTED = 20


def class_index(name: str, classes: Sequence[str], *, context: str = "") -> int:
    """Return the position of a class that an option names.

    Args:
        name: A name; `#10` for the class at position 10, which a plain number is too where no class has that name.
        classes: The class names.
        context: What the message begins with.

    Raises:
        ConfigError: When there is none; the nearest name is offered.
    """
    if name in classes:
        return list(classes).index(name)
    number = read_index(name.removeprefix("#"))
    if number is not None and number < len(classes):
        return number
    known = ", ".join(classes[:_LISTED]) + (f", ... ({len(classes)} in all)" if len(classes) > _LISTED else "")
    raise ConfigError(f"{context}unknown class {name!r}{nearest(name, classes)}; known: {known}")


def read_class_file(path: Path) -> tuple[str, ...]:
    """Read class names in a network's order: a name per line, or JSON: a list, {"0": name, ...} or {name: 0, ...}.

    Raises:
        ConfigError: When the file cannot be read or does not give one name to each class.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes; expected at most {_MAX_BYTES}")
        content = read_json(path) if path.suffix == ".json" else path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror or error}); expected a file of class names"
        ) from error
    except (UnicodeDecodeError, DataError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); expected UTF-8 text, a class name per line") from error
    names: Any = _in_order(content, path) if isinstance(content, dict) else content
    if path.suffix != ".json":
        names = "\n".join(line.strip() for line in names).rstrip().split("\n")
    if not isinstance(names, list) or not 2 <= len(names) <= MAX_CLASSES:
        count = len(names) if isinstance(names, list) else type(names).__name__
        raise ConfigError(f"{path}: {count} class names; expected 2 to {MAX_CLASSES}, one per line or a JSON list")
    for number, name in enumerate(names):
        if not is_text(name) or not name:
            raise ConfigError(f"{path}: class {number} is {name!a}; expected a name")
    return tuple(names)


def _in_order(content: dict[str, object], path: Path) -> list[object]:
    if all(type(value) is int for value in content.values()):  # torchvision's `class_to_idx`
        content = {str(number): name for name, number in content.items()}
    wanted = [str(number) for number in range(len(content))]
    if missing := [number for number in wanted if number not in content]:
        raise ConfigError(
            f"{path} names no class {missing[0]} among {len(content)}; expected the numbers from 0 on, each once"
        )
    return [content[number] for number in wanted]


def match_classes(
    data: LabelledImages, names: Sequence[str], *, count: int, model: str, quiet: bool = False
) -> tuple[Array, tuple[str, ...]]:
    """Return the position in a model's order of each class of a data set, matched by name, and the model's class names.

    The images may be of some of the model's classes only. Where names cannot decide, because the model or the data set numbers
    its classes, a number is a position if it can be one, as many classes on both sides are taken in order, and one line says so.

    Args:
        data: The images.
        names: The model's classes in its order, or () where it does not name them.
        count: How many it has.
        model: What it is called in messages.
        quiet: Whether the line is left out, for further parts of the same data set.

    Returns:
        (K',) int64, -1 for a class without images that the model does not have; and K names, the data set's where they are
        all that is known.

    Raises:
        DataError: When a class that has images is none of the model's, or which one cannot be known.
    """
    ours, theirs = data.classes, tuple(names)
    if ours == theirs:
        return np.arange(count), ours
    present = [ours[label] for label in np.unique(data.labels)]
    numbers, plain = _numbers(ours), not theirs or theirs == _positions(count)
    named = Counter(theirs)
    unknown = [name for name in present if named[name] != 1]
    if theirs and not unknown:
        position = {name: label for label, name in enumerate(theirs)}
        return np.array([position.get(name, -1) for name in ours], np.int64), theirs
    if theirs and not plain and (numbers is None or len(unknown) < len(present)):  # some names do match
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        why = "names more than one class so" if unknown[0] in theirs else "does not have"
        raise DataError(
            one_line(
                f"{data.name} has images of the class {unknown[0]!r}{more}, which {model} {why}"
                f"{nearest(unknown[0], theirs)}; its {count} classes are {_few(theirs)}: rename the classes of one of them"
            )
        )
    if numbers == list(range(len(ours))) and len(ours) <= count:
        mapping, said = np.arange(len(ours)), "" if plain else f"label 0 of {data.name} is its class {theirs[0]!r}"
    elif len(ours) == count:
        mapping, said = np.arange(count), f"{_few(ours)} of {data.name} are taken for its classes in this order"
    elif numbers is not None and plain and max(numbers) < count:
        mapping, said = np.array(numbers), f"class {ours[0]!r} of {data.name} is its class {numbers[0]}, and so on"
    else:
        raise DataError(
            one_line(
                f"{model} has {count} classes{f' ({_few(theirs)})' if theirs else ', which it does not name'}; {data.name} has "
                f"{len(ours)} ({_few(ours)}): give the names of all {count} in the model's order, with --classes-file FILE, "
                "or in the array 'classes' of an npz"
            )
        )
    if said and not quiet:
        LOG.info(one_line(f"edgeproof: {model} and {data.name} share no class names: {said}"))
    kept = ours if len(ours) == count and plain else (theirs or _positions(count))
    return mapping, kept


def fit_classes(
    data: LabelledImages, names: Sequence[str], *, count: int, model: str, quiet: bool = False
) -> LabelledImages:
    """Return the images with their labels in a model's order of its classes, as `match_classes` finds it.

    Raises:
        DataError: As `match_classes`.
    """
    return relabelled(data, *match_classes(data, names, count=count, model=model, quiet=quiet))


def relabelled(data: LabelledImages, mapping: Array, classes: tuple[str, ...]) -> LabelledImages:
    """Return the images with the label `mapping[label]` for each label, an index into `classes`."""
    return data if classes == data.classes else replace(data, labels=mapping[data.labels], classes=classes)


def model_classes(own: Sequence[str], file: str | None, *, count: int, model: str) -> tuple[str, ...]:
    """Return a model's class names: its own, or for one that only numbers its classes those of a file.

    Raises:
        ConfigError: When the file does not fit the model.
    """
    if file is None:
        return tuple(own)
    names = read_class_file(Path(file))
    if len(names) != count:
        raise ConfigError(f"{file} names {len(names)} classes, and {model} has {count}; expected one name for each")
    if own and tuple(own) not in (names, _positions(count)):
        raise ConfigError(f"{model} names its classes itself ({_few(own)}); leave out --classes-file")
    return names


def _positions(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _numbers(names: Sequence[str]) -> list[int] | None:
    """Return the names as numbers, or None where one is none or two are the same."""
    found = [number for name in names if (number := read_index(name)) is not None]
    return found if len(set(found)) == len(names) else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
