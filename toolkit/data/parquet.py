"""Image data sets in Parquet as dataset hubs publish them: a struct of encoded bytes beside an integer label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgeproof.data.decode import decode_images
from edgeproof.data.source import MAX_BYTES, parsing
from edgeproof.errors import DataError
from edgeproof.system.optional import require
from edgeproof.types import Array

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "labels")


def read_parquet(files: Sequence[Path]) -> tuple[Array, Array, bool]:
    """Read the shards of one split, in the order of their names.

    Returns:
        Images (N, C, H, W) uint8, labels (N,) int64, and whether any image is a JPEG, which has lost something.

    Raises:
        DataError: When a shard is damaged, has other columns, or an image cannot be decoded.
        UnavailableError: When pyarrow is not installed.
    """
    encoded: list[bytes] = []
    labels = []
    for file in sorted(files):
        images, numbers = _read_shard(file)
        encoded += images
        labels.append(numbers)
    if not encoded:
        raise DataError(f"{files[0]} holds no images; fetch it again")
    jpeg = any(image.startswith(b"\xff\xd8") for image in encoded)
    return decode_images(encoded, name=lambda row: f"{files[0].parent}: image {row}"), np.concatenate(labels), jpeg


def _read_shard(file: Path) -> tuple[list[bytes], Array]:
    parquet = require("pyarrow.parquet", extra="data", purpose=f"read {file.name}")
    with parsing(str(file), kind="a Parquet file of encoded images"), parquet.ParquetFile(file) as shard:
        size = sum(shard.metadata.row_group(group).total_byte_size for group in range(shard.metadata.num_row_groups))
        if size > MAX_BYTES:
            raise DataError(f"{file} would unpack to {size} bytes; the limit is {MAX_BYTES}")
        names = shard.schema_arrow.names
        image, label = (
            next((name for name in known if name in names), None) for known in (_IMAGE_COLUMNS, _LABEL_COLUMNS)
        )
        if image is None or label is None:
            raise DataError(f"{file} has columns {', '.join(names)}; expected img or image, and label or labels")
        table = shard.read(columns=[f"{image}.bytes", label])
        images: list[bytes] = table.column(image).combine_chunks().field("bytes").to_pylist()
        labels: Array = table.column(label).to_numpy().astype(np.int64, casting="safe")
    if not all(images):
        raise DataError(f"{file}: image {[bool(image) for image in images].index(False)} has no bytes; fetch it again")
    return images, labels
