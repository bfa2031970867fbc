"""Thumbnails of pictures, with Pillow.

The request is a picture, in any format that Pillow reads; the response one that
fits a box, as JPEG or, if the picture has transparent parts, as PNG. The status
of the response says what it is, for example "image/jpeg 128x96 of 4000x3000".

The configuration is a JSON object: `width` and `height` of the box (128),
`quality` of a JPEG (80), `max_pixels` of a picture (50,000,000).

Pillow decodes and scales without Python's lock: threads work at the same time.
"""

import io
import json
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

import nonblocking_ffi as nbffi


class Thumbs:
    def init(self, config: str) -> None:
        options = json.loads(config or "{}")
        self.box = (int(options.pop("width", 128)),
                    int(options.pop("height", 128)))
        self.quality = int(options.pop("quality", 80))
        self.max_pixels = int(options.pop("max_pixels", 50_000_000))
        if options:
            raise ValueError(f"unknown options: {', '.join(options)}")
        if min(self.box) < 1:
            raise ValueError("width and height must be at least 1")
        # Pillow's own limit is for the process; ours is for a runtime.
        Image.MAX_IMAGE_PIXELS = None
        # All formats now, not when the first picture comes.
        Image.init()

    def call(self, request: bytes) -> bytes:
        picture = self.open(request)
        size = picture.size
        # Reads a JPEG at a smaller scale, if that is enough.
        picture.draft(None, self.box)
        self.give_up_if_late()
        try:
            picture = ImageOps.exif_transpose(picture)
            picture.thumbnail(self.box, Image.Resampling.LANCZOS)
        except OSError as error:
            raise nbffi.Error(422, f"broken picture: {error}") from error
        self.give_up_if_late()
        kind, data = self.encode(picture)
        nbffi.set_status(0, f"image/{kind} {picture.width}x{picture.height} "
                            f"of {size[0]}x{size[1]}")
        return data

    def open(self, request: bytes) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture = Image.open(io.BytesIO(request))
        except UnidentifiedImageError as error:
            raise nbffi.Error(415, "not a picture") from error
        # Nothing has been decoded yet.
        if picture.width * picture.height > self.max_pixels:
            raise nbffi.Error(413, f"{picture.width}x{picture.height} is more "
                                   f"than {self.max_pixels} pixels")
        return picture

    def encode(self, picture: Image.Image) -> "tuple[str, bytes]":
        out = io.BytesIO()
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
            picture.convert("RGBA").save(out, "PNG")
            return "png", out.getvalue()
        picture.convert("RGB").save(out, "JPEG", quality=self.quality)
        return "jpeg", out.getvalue()

    @staticmethod
    def give_up_if_late() -> None:
        if nbffi.cancelled():
            raise nbffi.Error(499, "nobody waits any more")
