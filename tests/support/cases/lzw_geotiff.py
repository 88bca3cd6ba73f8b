"""Multi-band uint16 GeoTIFFs as GDAL users write them: LZW, DEFLATE + predictor 2 in tiles, BigTIFF, bands apart.

Folders: lzw/, deflate_tiled/, bigtiff/, planar/ ; each holds class folders of 4-band uint16 chips.
"""

import io

import numpy as np
import tifffile

from tests.support.cases.common import CLASSES, reflectance


def lzw(data: bytes) -> bytes:
    """Valid TIFF LZW without compressing: 9-bit literals, and a clear code before codes would grow to 10 bits."""
    bits, count, out = 0, 0, bytearray()

    def put(code):
        nonlocal bits, count
        bits, count = bits << 9 | code, count + 9
        while count >= 8:
            out.append(bits >> count - 8 & 255)
            count -= 8
        bits &= (1 << count) - 1

    for start in range(0, len(data), 250):
        put(256)
        for byte in data[start : start + 250]:
            put(byte)
    put(257)
    if count:
        out.append(bits << 8 - count & 255)
    return bytes(out)


def lzw_tiff(pixels) -> bytes:
    """An LZW TIFF of one strip: written plain by tifffile, then its tags point to the encoded strip at the end."""
    file = io.BytesIO()
    tifffile.imwrite(
        file, pixels, photometric="minisblack", planarconfig="contig", rowsperstrip=len(pixels), metadata=None
    )
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tif:
        page = tif.pages[0]
        plain = bytes(data[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]])
        tags = {n: page.tags[n].valueoffset for n in ("Compression", "StripOffsets", "StripByteCounts")}
        widths = {n: page.tags[n].dtype for n in tags}
    coded = lzw(plain)
    new = {"Compression": 5, "StripOffsets": len(data), "StripByteCounts": len(coded)}
    for name, at in tags.items():
        size = 2 if int(widths[name]) == 3 else 4
        data[at : at + size] = new[name].to_bytes(size, "little")
    return bytes(data) + coded


def make(out):
    for k, label in enumerate(CLASSES):
        for i in range(6):
            pixels = reflectance(100 * k + i, label).astype(np.uint16)
            for form in ("lzw", "deflate_tiled", "bigtiff", "planar"):
                folder = out / form / label
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{i}.tif"
                if form == "lzw":
                    path.write_bytes(lzw_tiff(pixels))
                elif form == "deflate_tiled":
                    tifffile.imwrite(
                        path,
                        pixels,
                        photometric="minisblack",
                        planarconfig="contig",
                        tile=(16, 16),
                        compression="zlib",
                        predictor=2,
                    )
                elif form == "bigtiff":
                    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", bigtiff=True)
                else:
                    tifffile.imwrite(
                        path, np.moveaxis(pixels, -1, 0), photometric="minisblack", planarconfig="separate"
                    )
