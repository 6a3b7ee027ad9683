"""PNG through Pillow: only what has to do with the pixels is read, and see-through shades of any depth.

By itself Pillow unpacks every text and profile, refuses the whole photo where one of them is large
or damaged, and takes the see-through shade of 2 and 4 bits for one of 8.
"""

from __future__ import annotations

from PIL import Image, PngImagePlugin

from contract.structure import Pieces

# PNG 3, section 11: what makes the picture (an animation too: its first frame), and which side of it is up.
_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_EXIF, _TEXTS = b"eXIf", {b"tEXt", b"zTXt", b"iTXt"}
_TURNING = {b"XML:com.adobe.xmp", b"Raw profile type exif"}  # texts that Pillow looks at for the orientation
_KEYWORD = 80  # bytes of the longest, and the zero behind it
_SCALES = {"L;2": 85, "L;4": 17, "L": 1, "RGB": 1}  # by raw mode: from a sample to a value of 8 bits
_DEEP = "RGB;16B"


class PngChunks(PngImagePlugin.PngStream):
    """Pillow's reader of chunks, which passes over what nobody asks for."""

    def call(self, cid: bytes, pos: int, length: int) -> bytes:
        """See `ChunkStream`. A text that is wanted is unpacked to 1 MB at most, and once."""
        assert self.fp is not None
        if cid in _PICTURE or cid == _EXIF:
            return super().call(cid, pos, length)
        if cid in _TEXTS:
            keyword = self.fp.read(min(length, _KEYWORD)).partition(b"\0")[0]
            self.fp.seek(pos)
            if keyword in _TURNING and keyword.decode() not in self.im_info:
                try:
                    return super().call(cid, pos, length)
                except (ValueError, SyntaxError):  # too large, or damaged
                    pass
        self.fp.seek(pos + length)
        return b""

    def crc(self, cid: bytes, data: bytes) -> None:
        """See `ChunkStream`."""
        if cid in _PICTURE:
            super().crc(cid, data)
        else:
            self.crc_skip(cid, data)

    def chunk_tRNS(self, pos: int, length: int) -> bytes:
        """See `PngStream`. Of 16 bits the shade stays as it is."""
        data = super().chunk_tRNS(pos, length)
        key, scale = self.im_info.get("transparency"), _SCALES.get(self.im_rawmode)
        if scale is not None and isinstance(key, int):
            self.im_info["transparency"] = key * scale & 0xFF
        elif scale is not None and isinstance(key, tuple):
            self.im_info["transparency"] = tuple(one & 0xFF for one in key)
        return data


def low_bytes(image: Image.Image) -> Image.Image | None:
    """The lower half of each sample, if it takes both to know what is see-through; before the image is loaded.

    Of colours of 16 bits Pillow keeps the upper half.
    """
    if "transparency" not in image.info or not isinstance(image, PngImagePlugin.PngImageFile):
        return None
    if not image.tile or image.tile[0].args != _DEEP or not isinstance(image.fp, Pieces):
        return None
    again = Image.open(Pieces(image.fp.getvalue()), formats=["PNG"])
    again.tile = [again.tile[0]._replace(args="RGB;16L")]
    again.load()
    return again
