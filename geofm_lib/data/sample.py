"""One image on its way from a source into a data shard, with all that was found of it."""

import operator
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

Data = bytes | memoryview
Block = dict[str, Sequence[str]]  # some rows that lie beside a data shard, as columns


@dataclass(slots=True)
class Sample:
    """One image. The fields up to `reason` are the columns of the rows beside a data shard, in this order.

    A refused image has a name and a reason, and nothing else.
    """

    name: str
    label: str = ""  # given by the source; several with "|" between them
    side: str = ""  # likewise: train, val or test
    scene: str = ""  # likewise: images of one scene stay on one side
    shard: str = ""  # the file's name
    offset: int = 0  # of the first byte in the shard
    size: int = 0  # bytes
    checksum: str = ""  # of the bytes, see below
    width: int = 0
    height: int = 0
    channels: int = 0
    dtype: str = ""  # of a value: uint8, uint16, int16 or float32
    valid: int = 0  # pixels that were measured; the others are not in sums, squares and look
    digest: str = ""  # of the pixels: 16 hexadecimal digits
    look: str = ""  # a perceptual hash, likewise; "" for a flat picture
    contrast: float = 0.0  # how much the look's brightnesses vary, in units of the type's range
    turned: str = ""  # a look that an image has however it is turned and mirrored
    sums: str = ""  # of each channel over the pixels, in 0..1 units, with spaces between them
    squares: str = ""  # likewise of the squared values
    geo: str = ""  # where the image lies: reference system, then its transform, with spaces between them
    converted: str = ""  # what had to be done to the image
    reason: str = ""  # why it is refused
    data: Data = b""  # the encoded image; a view is valid until the next sample is asked for

    def __reduce__(self) -> tuple[type, tuple]:
        """How one gets to another process, without its data: in half the time of Python's own way."""
        return Sample, _values(self)


ROW = tuple(field.name for field in fields(Sample) if field.name != "data")
_values = operator.attrgetter(*ROW)
NUMBERS = {field.name: field.type for field in fields(Sample) if field.type in (int, float)}


def from_row(columns: Iterable[str], row: Iterable[str]) -> Sample:
    """A row beside a shard as a sample again, without its data."""
    texts = zip(columns, row, strict=True)
    return Sample(**{name: NUMBERS[name](text or 0) if name in NUMBERS else text for name, text in texts})  # type: ignore[arg-type]


def checksum(data: Data) -> str:
    """The CRC-32 of an image's bytes, as it stands in the index: 8 hexadecimal digits."""
    return f"{zlib.crc32(data):08x}"
