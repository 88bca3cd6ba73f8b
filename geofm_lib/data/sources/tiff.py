"""The structure of a TIFF: where its pages begin, and whether all of it is there. No pixels are read."""

import struct

# The first four bytes -> byte order, and the types of a count and of a place (32 bits, or 64 in BigTIFF).
SIGNS = {b"II*\0": ("<", "H", "I"), b"MM\0*": (">", "H", "I"), b"II+\0": ("<", "Q", "Q"), b"MM\0+": (">", "Q", "Q")}
SUBFILE, REDUCED_OR_MASK = 254, 0b101  # the TIFF tag of what a page is, and its bits of no page of its own
TAG_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))  # of a value, by its type


def pages(data: bytes) -> list[int]:
    """Where the pages of a TIFF begin, without masks and reduced copies.

    Raises OSError where a page, or what a tag of one points to, lies behind the end: readers pass over both in silence.
    """
    order, many, offset = SIGNS[data[:4]]
    width, size = struct.calcsize(offset), 12 if offset == "I" else 20
    tag = struct.Struct(f"{order}HH{offset}{offset}")
    found: list[int] = []
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(order + offset, data, 4 if offset == "I" else 8)
        while at and at not in seen:
            seen.add(at)
            (tags,) = struct.unpack_from(order + many, data, at)
            first, own = at + struct.calcsize(many), True
            for place in range(first, first + size * tags, size):
                name, kind, count, value = tag.unpack_from(data, place)
                length = count * TAG_BYTES.get(kind, 0)
                if length > width and value + length > len(data):
                    raise OSError("the file is cut short")
                if name == SUBFILE:
                    own = not struct.unpack_from(order + "I", data, place + size - width)[0] & REDUCED_OR_MASK
            found += [at] if own else []
            (at,) = struct.unpack_from(order + offset, data, first + size * tags)
    except struct.error:
        raise OSError("the file is cut short") from None
    return found
