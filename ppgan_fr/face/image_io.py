"""Pictures in and out of files, with everything they carry: orientation, alpha, 16 bits, EXIF, ICC profile, XMP.

A file that cannot be read completely is refused with one line: a truncated JPEG is not half a photo. The size is read
from the header before a pixel is decoded. Files are written beside their place (on Linux without a name) and appear
complete or not at all.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from ppgan_fr.face.align import to_8_bit

MAX_PIXELS = 150_000_000
"""Largest picture that is decoded: 12000 x 9000 passes, a decompression bomb does not."""

MAX_BYTES = 8 * MAX_PIXELS + (64 << 20)
"""Largest file that is read: 16 bits and alpha of the largest picture, not packed."""

HEIF = frozenset({".heic", ".heif", ".hif"})
READABLE = HEIF | {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"}
_WRITABLE = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
}
JPEG_QUALITY = 92
"""A photo that was stored worse than this is stored at this quality: its faces are new and deserve it."""
HEIF_QUALITY = 90

_ORIENTATION, _XMP, _EXIF_WIDTH, _EXIF_HEIGHT = 0x0112, 700, 0xA002, 0xA003
_HEIF_BRANDS = frozenset(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"))
_MAX_SEGMENT = 65_502
"""Longest XMP packet in one segment of a JPEG."""

# Entries of a TIFF directory that say something about the picture and not how it is stored: document and page name,
# description, make, model, software, date, artist, host, copyright, and Windows' title to subject.
_TIFF_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, *range(0x9C9B, 0x9CA0))
_TIFF_BYTES = (33723, 34377)
"""IPTC and Photoshop's block."""
# PNG: what changes how colours look, and texts.
_PNG_CHUNKS = frozenset({b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"tEXt", b"zTXt", b"iTXt", b"tIME"})


class ImageError(ValueError):
    """A file that is no picture, not a whole one, too large, or cannot be written. One line: where and why."""

    def __init__(self, message: str, number: int | None = None):
        super().__init__(message)
        self.errno = number
        """What the operating system said, where it was that."""


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its pixels, ready to be written again."""

    exif: bytes | None = None
    """TIFF structure without the `Exif` prefix, orientation set to upright."""
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    jpeg_tables: dict[int, list[int]] | None = field(default=None, repr=False)
    """Quantisation tables of a JPEG."""
    jpeg_subsampling: int | None = None
    """0: 4:4:4, 1: 4:2:2, 2: 4:2:0."""
    jpeg_progressive: bool = False
    lossless: bool = True
    """False for JPEG, lossy WebP and HEIC."""
    bits: int = 8
    """Per channel of a HEIC file."""
    container: str = ""
    """Kind of file that `parts` come from: they are written into the same kind only."""
    parts: tuple[bytes, ...] = field(default=(), repr=False)
    """Segments of a JPEG (IPTC, Photoshop, comments, long XMP) or chunks of a PNG (texts, gamma), as they were."""


@dataclass(frozen=True)
class Photo:
    """A picture, upright."""

    pixels: np.ndarray
    """(H, W, 3) uint8 or uint16 BGR; a gray picture has three equal channels."""
    alpha: np.ndarray | None = None
    """(H, W) of the same type."""
    gray: bool = False
    """The file has one colour channel; written files will, too."""
    metadata: Metadata = Metadata()
    pages: int = 1
    """Pictures in the file: frames of an animation, pages of a TIFF. Only the first is in `pixels`."""


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a picture as (H, W, 3) uint8 BGR, upright, whatever the file holds.

    Raises:
        ImageError: see `read_photo`.
    """
    return to_8_bit(read_photo(path, max_pixels).pixels)


def read_photo(path: str | Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads a picture with everything it carries. The first page of files with several.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF, PNM; HEIC with pillow-heif.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: no such file, no picture, a truncated or damaged one, or one with too many pixels.
    """
    try:
        content = read_content(path)
    except OSError as error:
        raise ImageError(f"{shown(path)}: {error.strerror or error}", error.errno) from None
    return parse_photo(content, path, max_pixels)


def read_content(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file that may be a picture.

    Raises:
        ImageError: it is a folder, a pipe or a device, or larger than any picture.
        OSError: there is no such file, it may not be read, or the disk fails.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as stream:  # a pipe opens without waiting for somebody to write into it
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{shown(path)}: a folder, not a picture")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{shown(path)}: not a file")
        if status.st_size > max_bytes:
            raise ImageError(f"{shown(path)}: {status.st_size / 1e9:.1f} GB are too much for a picture")
        return stream.read()


def parse_photo(
    content: bytes,
    path: str | Path,
    max_pixels: int = MAX_PIXELS,
    on_size: Callable[[int], None] | None = None,
) -> Photo:
    """`read_photo` of a file whose bytes are there already.

    Args:
        content: of the file.
        path: stands in messages, and its ending says whether the file may be HEIC.
        max_pixels: larger pictures are refused before they are decoded.
        on_size: told the number of pixels before they are decoded.

    Raises:
        ImageError: as `read_photo`.
    """
    name = shown(path)
    try:
        if Path(path).suffix.lower() in HEIF or content[4:12] in _HEIF_BRANDS:
            _learn_heif()
        with warnings.catch_warnings():
            # Pillow warns about pictures that `max_pixels` lets through, and about harmless slips in metadata.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        f"{name}: {width} x {height} pixels are too many (limit {max_pixels // 1_000_000} million)"
                    )
                if on_size is not None:
                    on_size(width * height)
                metadata, bits, pages = _metadata(image, content), _bits(image), _pages(image)
                image.load()
                return replace(_decode(content, image, bits), metadata=metadata, pages=pages)
    except ImageError as error:
        # what lies below knows the reason, not the file
        raise error if str(error).startswith(name) else ImageError(f"{name}: {error}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: {'not a picture' if content else 'the file is empty'}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: too many pixels (limit {max_pixels // 1_000_000} million)") from None
    except MemoryError:
        raise ImageError(f"{name}: not enough memory to decode it", errno.ENOMEM) from None
    except OSError as error:
        reason = error.strerror or ("the file is truncated" if "truncated" in str(error) else "the file is damaged")
        raise ImageError(f"{name}: {reason}") from None
    except Exception as error:  # noqa: BLE001 - decoders meet hostile files and raise whatever comes to their mind
        raise ImageError(f"{name}: the file is damaged ({type(error).__name__})") from None


def decode_photo(content: bytes, name: str = "picture", max_pixels: int = MAX_PIXELS) -> Photo:
    """`read_photo` of bytes that are already in memory; `name` stands in messages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(f"{name}: {image.width} x {image.height} pixels are too many")
                metadata, bits = _metadata(image, content), _bits(image)
                image.load()
                return replace(_decode(content, image, bits), metadata=metadata)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise ImageError(f"{name}: not a whole picture ({type(error).__name__})") from None


def shown(path: str | Path) -> str:
    """A file name for a message of one line: line breaks and what is no text are escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in str(path)
    )


def _decode(content: bytes, image: Image.Image, bits: int) -> Photo:
    """Pixels of a loaded picture, upright. Pillow has read the whole file by now, so truncation has shown itself."""
    orientation = _orientation(image)
    if image.format == "HEIF" and bits > 8:
        return _split(_deep_heif(content), orientation)
    if bits == 16:
        array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if array is None or array.dtype != np.uint16:
            raise ImageError("16 bits in a form that is not supported")
        if image.format == "PNG" and content[25] == 4:  # gray with alpha, which OpenCV gives as four channels
            array = np.ascontiguousarray(array[..., [0, 3]])
        # OpenCV turns TIFFs upright by itself, as Pillow did.
        return _split(array, orientation)
    if image.mode in ("I", "F", "I;16", "I;16B", "I;16L", "I;16N"):
        array = np.asarray(image).astype(np.float64)
        if image.mode == "F" and array.size and array.max() <= 1.0:
            array *= 65535
        return _split(np.clip(np.nan_to_num(array), 0, 65535).astype(np.uint16), orientation)
    if image.mode in ("1", "L"):
        return _split(np.array(image.convert("L")), orientation)
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or "transparency" in image.info:
        if image.mode in ("LA", "La"):
            pair = np.array(image.convert("LA"))
            photo = _split(np.ascontiguousarray(pair[..., 0]), orientation)
            return replace(photo, alpha=_upright(np.ascontiguousarray(pair[..., 1]), orientation))
        image = image.convert("RGBA" if image.mode != "P" or "transparency" in image.info else "RGB")
    if image.mode == "RGBA":
        return _split(cv2.cvtColor(np.asarray(image), cv2.COLOR_RGBA2BGRA), orientation)
    if image.mode != "RGB":
        image = image.convert("RGB")
    raw = bytearray(image.tobytes("raw", "BGR"))
    return _split(np.frombuffer(raw, np.uint8).reshape(image.height, image.width, 3), orientation)


def _split(array: np.ndarray, orientation: int) -> Photo:
    array = _upright(array, orientation)
    if array.ndim == 2:
        return Photo(cv2.cvtColor(array, cv2.COLOR_GRAY2BGR), gray=True)
    if array.shape[2] == 4:
        return Photo(np.ascontiguousarray(array[..., :3]), np.ascontiguousarray(array[..., 3]))
    if array.shape[2] == 2:
        return Photo(
            cv2.cvtColor(np.ascontiguousarray(array[..., 0]), cv2.COLOR_GRAY2BGR), array[..., 1].copy(), gray=True
        )
    return Photo(array)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # already turned upright while loading
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - EXIF is written by every program there is
        return 1
    return value if value in range(1, 9) else 1


def _bits(image: Image.Image) -> int:
    """Bits per channel in the file (Pillow reduces 16-bit colour to 8 without a word). Called before loading."""
    if image.format == "TIFF":
        bits, sample_format = image.tag_v2.get(258, (8,)), image.tag_v2.get(339, (1,))
        return 16 if max(np.atleast_1d(bits)) == 16 and sample_format[0] == 1 else 8
    if image.format == "PNG":
        position = image.fp.tell()
        image.fp.seek(24)  # in the header, at a fixed place
        depth = image.fp.read(1)
        image.fp.seek(position)
        return 16 if depth == b"\x10" else 8
    if image.format == "HEIF":
        return int(image.info.get("bit_depth") or 8)
    return 8


def _pages(image: Image.Image) -> int:
    """How many pictures a file holds; smaller copies of the same one (previews) do not count. Called before loading."""
    count = getattr(image, "n_frames", 1)
    if count <= 1 or image.format not in ("TIFF", "GIF", "WEBP", "PNG", "AVIF"):  # a phone's JPEG has a gain map behind
        return 1
    if image.format != "TIFF":
        return count
    full = 0
    for page in range(min(count, 1000)):
        image.seek(page)
        full += not int(image.tag_v2.get(254, 0)) & 1
    image.seek(0)
    return max(full, 1)


def _learn_heif() -> None:
    """Teaches Pillow to read and write HEIC.

    Raises:
        ImageError: the package for it is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("HEIC needs the package pillow-heif (pip install -r requirements-heif.txt)") from None
    if "HEIF" not in Image.OPEN:
        pillow_heif.register_heif_opener()


def _deep_heif(content: bytes) -> np.ndarray:
    """A HEIC with 10 or 12 bits as (H, W, 3 or 4) uint16 BGR."""
    import pillow_heif

    array = np.asarray(pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=False))
    if array.ndim == 2:
        return np.ascontiguousarray(array)
    return np.ascontiguousarray(array[..., [2, 1, 0, 3][: array.shape[2]]])


def _metadata(image: Image.Image, content: bytes) -> Metadata:
    """Everything but pixels. Called before loading; damaged metadata is left out rather than in the way."""
    info = image.info
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    exif = info.get("exif")
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if kind == "TIFF":
        exif = _tiff_exif(image)
        xmp = xmp or image.tag_v2.get(_XMP)
    elif kind == "PNG" and exif is None and "Raw profile type exif" in info:
        exif = image.getexif().tobytes()
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    lossless, tables, subsampling, parts = True, None, None, ()
    if kind == "JPEG":
        lossless = False
        tables = {key: list(table) for key, table in image.quantization.items()}
        subsampling = JpegImagePlugin.get_sampling(image)
        parts = tuple(_jpeg_parts(content))
    elif kind == "PNG":
        parts = tuple(_png_parts(content))
    elif kind == "WEBP":
        lossless = _is_lossless_webp(content)
    elif kind == "HEIF":
        lossless = False
    dpi = info.get("dpi") if kind != "TIFF" or 282 in image.tag_v2 else None  # Pillow says 1 where nothing is said
    icc = info.get("icc_profile")
    if image.mode == "CMYK":
        icc = None  # the profile describes inks, and the pixels become RGB
    return Metadata(
        exif=upright_exif(exif) if isinstance(exif, bytes) else None,
        icc=icc if isinstance(icc, bytes) and icc else None,
        xmp=re.sub(rb"(tiff:Orientation(?:=[\"']|>))[2-8]", rb"\g<1>1", xmp) if isinstance(xmp, bytes) else None,
        dpi=tuple(float(value) for value in dpi) if dpi and all(value > 0 for value in dpi) else None,
        jpeg_tables=tables,
        jpeg_subsampling=subsampling if subsampling in (0, 1, 2) else None,
        jpeg_progressive=bool(info.get("progressive")),
        lossless=lossless,
        bits=_bits(image) if kind == "HEIF" else 8,
        container=kind,
        parts=parts,
    )


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments before the pixels, markers and lengths included."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        if content[at + 1] == 0xFF:  # padding
            at += 1
            continue
        marker, end = content[at + 1], at + 2 + struct.unpack_from(">H", content, at + 2)[0]
        if marker == 0xDA or end > len(content):
            return
        yield marker, at, end
        at = end


def _jpeg_parts(content: bytes) -> Iterator[bytes]:
    """What a JPEG carries beside EXIF, profile and XMP: IPTC and Photoshop's block, comments, the rest of a long XMP.

    Left out is what is about this very file: offsets to further pictures, the colour transform, signatures.
    """
    for marker, start, end in _jpeg_segments(content):
        payload = content[start + 4 : start + 40]
        if marker == 0xE1:
            wanted = payload.startswith(b"http://ns.adobe.com/xmp/extension/\0")
        elif marker == 0xE2:
            wanted = not payload.startswith((b"ICC_PROFILE\0", b"MPF\0"))
        else:
            wanted = marker == 0xFE or (0xE3 <= marker <= 0xEF and marker not in (0xEB, 0xEE))
        if wanted:
            yield content[start:end]


def _png_parts(content: bytes) -> Iterator[bytes]:
    """Chunks of a PNG that are kept as they are."""
    at = 8
    while at + 12 <= len(content):
        length = struct.unpack_from(">I", content, at)[0]
        name, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        known = data.startswith((b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0"))
        if name in _PNG_CHUNKS and not known and len(data) == length:
            yield content[at : at + 12 + length]
        at += 12 + length


def _is_lossless_webp(content: bytes) -> bool:
    at = 12
    while at + 8 <= len(content):
        name, length = content[at : at + 4], struct.unpack_from("<I", content, at + 4)[0]
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        at += 24 if name == b"ANMF" else 8 + length + length % 2  # inside a frame, behind its place and duration
    return False


def _tiff_exif(image: Image.Image) -> bytes | None:
    """The camera's entries of a TIFF as an EXIF block of its own."""
    try:
        source = image.getexif()
        kept = Image.Exif()
        for tag in _TIFF_TAGS:
            if tag in source:
                kept[tag] = source[tag]
        for tag in _TIFF_BYTES:
            # As they lie in the file: IPTC is declared as numbers of 32 bits, of which Pillow would give the first.
            value = getattr(image.tag_v2, "_tagdata", {}).get(tag)
            if isinstance(value, bytes):
                kept[tag] = value
        for tag in (0x8769, 0x8825):
            entries = source.get_ifd(tag)
            if entries:
                kept[tag] = dict(entries)
        return kept.tobytes() if len(kept) else None
    except Exception:  # noqa: BLE001 - EXIF is written by every program there is
        return None


def upright_exif(exif: bytes, size: tuple[int, int] | None = None) -> bytes | None:
    """Sets the orientation of an EXIF block to upright, and its pixel size when given, touching no other byte.

    The small preview of a picture that was stored turned is cut off: it would stay turned.

    Args:
        exif: with or without the `Exif` prefix.
        size: width and height of the picture, if they changed.

    Returns:
        The block without prefix, or None when it is damaged.
    """
    data = bytearray(exif[6:] if exif[:6] == b"Exif\0\0" else exif)
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    if order is None or len(data) < 8:
        return None
    wanted = {_ORIENTATION: 1}
    if size is not None:
        wanted |= {_EXIF_WIDTH: size[0], _EXIF_HEIGHT: size[1]}
    try:
        first = struct.unpack_from(f"{order}I", data, 4)[0]
        pending = [first]
        seen = set()
        while pending:
            start = pending.pop()
            if start in seen:
                break
            seen.add(start)
            for i in range(_entries(data, order, start)):
                at = start + 2 + 12 * i
                tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
                if tag in wanted and count == 1 and kind in (3, 4):
                    if tag == _ORIENTATION and struct.unpack_from(f"{order}{'HI'[kind - 3]}", data, at + 8)[0] != 1:
                        struct.pack_into(f"{order}I", data, first + 2 + 12 * _entries(data, order, first), 0)
                    if kind == 4 or wanted[tag] < 65536:
                        struct.pack_into(f"{order}{'HI'[kind - 3]}", data, at + 8, wanted[tag])
                elif tag == 0x8769:
                    pending.append(struct.unpack_from(f"{order}I", data, at + 8)[0])
    except struct.error:
        return None
    return bytes(data)


def _entries(data: bytearray, order: str, start: int) -> int:
    return struct.unpack_from(f"{order}H", data, start)[0]


def output_suffix(path: str | Path) -> str:
    """The ending a result gets: the input's where that kind of file can be written, `.png` otherwise."""
    suffix = Path(path).suffix
    return suffix if suffix.lower() in _WRITABLE else ".png"


def write_image(path: str | Path, image: np.ndarray, metadata: Metadata | None = None) -> None:
    """Writes (H, W, 3) BGR, (H, W, 4) BGRA or (H, W) gray, uint8 or uint16.

    Raises:
        ImageError: see `write_photo`.
    """
    if image.ndim == 2:
        photo = Photo(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), gray=True)
    else:
        photo = Photo(image[..., :3], image[..., 3] if image.shape[2] == 4 else None)
    write_photo(path, replace(photo, metadata=metadata or Metadata()))


def write_photo(path: str | Path, photo: Photo) -> None:
    """Writes a picture with what it carries, complete or not at all. What the container cannot hold (alpha and 16 bits
    in a JPEG) is left out.

    Raises:
        ImageError: the ending is unknown, or the file cannot be written (no folder, no right, no space).
    """
    path = Path(path)
    kind = output_kind(path)
    try:
        content = encode_photo(photo, kind)
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(f"{shown(path)}: cannot be encoded ({error})") from None
    try:
        write_file(path, content)
    except OSError as error:
        raise ImageError(f"{shown(path)}: cannot be written ({error.strerror or error})", error.errno) from None


def output_kind(path: str | Path) -> str:
    """The kind of file that an ending stands for, as `encode_photo` takes it.

    Raises:
        ImageError: none that can be written.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in _WRITABLE:
        raise ImageError(
            f"{shown(path)}: cannot write {suffix or 'a file without an ending'}; use one of {' '.join(_WRITABLE)}"
        )
    return _WRITABLE[suffix.lower()]


def encode_photo(photo: Photo, kind: str = "PNG") -> bytes:
    """A photo as the bytes of a JPEG, PNG, WEBP, TIFF, HEIF or BMP file."""
    metadata = photo.metadata
    if metadata.exif is not None:
        metadata = replace(metadata, exif=upright_exif(metadata.exif, photo.pixels.shape[1::-1]))
    if kind == "HEIF":
        return _heif(photo, metadata)
    if photo.pixels.dtype == np.uint16 and kind in ("PNG", "TIFF"):
        array = _joined(photo)
        return _png_with(_png_16(array), metadata) if kind == "PNG" else _tiff(array, metadata)
    array = to_8_bit(_joined(replace(photo, alpha=None) if kind in ("JPEG", "BMP") else photo))
    if kind == "TIFF":
        return _tiff(array, metadata)
    image = _as_pillow(array)
    if kind == "WEBP" and image.mode == "LA":
        image = image.convert("RGBA")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "PNG":
            image.save(buffer, kind, compress_level=3)
            return _png_with(buffer.getvalue(), metadata)
        options: dict[str, Any] = {"dpi": metadata.dpi}
        if kind != "BMP":
            exif = None if metadata.exif is None else b"Exif\0\0" + metadata.exif
            options |= {"exif": exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
        if kind == "JPEG":
            options |= _jpeg_options(metadata)
        elif kind == "WEBP":  # exact: colours under transparent pixels stay, too
            options |= {"lossless": True, "quality": 60} if metadata.lossless else {"quality": 95, "method": 4}
            options["exact"] = metadata.lossless
        image.save(buffer, kind, **{key: value for key, value in options.items() if value is not None})
    if kind == "JPEG" and metadata.container == "JPEG":
        return _with_segments(buffer.getvalue(), metadata.parts)
    return buffer.getvalue()


def _as_pillow(array: np.ndarray) -> Image.Image:
    """(H, W), (H, W, 2), BGR or BGRA, uint8."""
    if array.ndim == 2:
        return Image.fromarray(array)
    if array.shape[2] == 2:
        return Image.fromarray(array, "LA")
    return Image.fromarray(cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA))


def _heif(photo: Photo, metadata: Metadata) -> bytes:
    """A HEIC file, 10 bits for a picture of more than 8."""
    _learn_heif()
    import pillow_heif

    array = _joined(replace(photo, gray=False))
    options: dict[str, Any] = {"quality": HEIF_QUALITY, "chroma": 444}
    exif = None if metadata.exif is None else b"Exif\0\0" + metadata.exif
    options |= {"exif": exif, "icc_profile": metadata.icc, "xmp": metadata.xmp}
    options = {key: value for key, value in options.items() if value is not None}
    buffer = io.BytesIO()
    if array.dtype == np.uint16:
        array = np.ascontiguousarray(array[..., [2, 1, 0, 3][: array.shape[2]]])
        mode = "RGB;16" if array.shape[2] == 3 else "RGBA;16"
        pillow_heif.from_bytes(mode, array.shape[1::-1], array.tobytes()).save(buffer, **options)
    else:
        _as_pillow(array).save(buffer, "HEIF", **options)
    return buffer.getvalue()


def _with_segments(content: bytes, parts: tuple[bytes, ...]) -> bytes:
    """Puts segments behind those that tell of the picture and before those that hold it."""
    at = 2
    for marker, _, end in _jpeg_segments(content):
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            break
        at = end
    return content[:at] + b"".join(parts) + content[at:]


def _joined(photo: Photo) -> np.ndarray:
    colour = photo.pixels[..., :1] if photo.gray else photo.pixels
    if photo.alpha is not None:
        return np.ascontiguousarray(np.concatenate([colour, photo.alpha[..., None]], 2))
    return np.ascontiguousarray(colour[..., 0] if photo.gray else colour)


def _jpeg_options(metadata: Metadata) -> dict[str, Any]:
    """The source's own tables where they are fine enough: what was not restored is then stored as it was."""
    chosen = {
        "quality": JPEG_QUALITY,
        "subsampling": metadata.jpeg_subsampling if metadata.jpeg_subsampling is not None else 0,
    }
    # Sum of the luminance table at quality 92 of the standard tables; smaller is finer.
    if metadata.jpeg_tables and sum(metadata.jpeg_tables[0]) <= 600:
        chosen = {**chosen, "qtables": metadata.jpeg_tables}
        chosen.pop("quality")
    return {**chosen, "progressive": metadata.jpeg_progressive}


def _exif_for_tiff(metadata: Metadata) -> Image.Exif | None:
    """A TIFF keeps EXIF and XMP as entries of its own directory."""
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(b"Exif\0\0" + metadata.exif)
    if metadata.xmp is not None:
        exif[_XMP] = metadata.xmp
    return exif if len(exif) else None


def _png_16(array: np.ndarray) -> bytes:
    if array.ndim < 3 or array.shape[2] != 2:
        return cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    height, width = array.shape[:2]  # OpenCV has no gray with alpha
    rows = np.zeros((height, 1 + 4 * width), np.uint8)  # each row behind the number of its filter: none
    rows[:, 1:] = array.astype(">u2").view(np.uint8).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 4)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _png_with(content: bytes, metadata: Metadata) -> bytes:
    """Puts what a photo carries behind the header of a PNG."""
    extra = b"".join(metadata.parts) if metadata.container == "PNG" else b""
    if metadata.icc is not None:
        extra += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi is not None:
        extra += _chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in metadata.dpi), 1))
    if metadata.xmp is not None:
        extra += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    if metadata.exif is not None:
        extra += _chunk(b"eXIf", metadata.exif)
    return content[:33] + extra + content[33:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _tiff(array: np.ndarray, metadata: Metadata) -> bytes:
    """A TIFF with one deflated strip, 8 or 16 bits per channel.

    Pillow writes the directory; of itself it has no 16-bit colour, and its compressed files lose the EXIF entries.
    """
    if array.ndim == 3 and array.shape[2] >= 3:
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    channels = 1 if array.ndim == 2 else array.shape[2]
    strip = zlib.compress(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes(), 4)
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    directory[256], directory[257] = array.shape[1], array.shape[0]
    directory[258] = (8 * array.itemsize,) * channels
    directory[259] = 8
    directory[262] = 2 if channels >= 3 else 1
    directory[277] = channels
    directory[278] = array.shape[0]
    directory[279] = len(strip)
    directory[284] = 1
    if channels in (2, 4):
        directory[338] = 2
    if metadata.dpi is not None:
        directory[282], directory[283], directory[296] = metadata.dpi[0], metadata.dpi[1], 2
    if metadata.icc is not None:
        directory.tagtype[34675] = 7
        directory[34675] = metadata.icc
    exif = _exif_for_tiff(metadata)
    if exif is not None:
        for tag, value in exif.items():
            if tag not in (0x8769, 0x8825, _ORIENTATION) and tag not in directory:
                if tag in (_XMP, *_TIFF_BYTES):
                    directory.tagtype[tag] = 1
                    value = value if isinstance(value, bytes) else bytes(value)
                directory[tag] = value
        for tag in (0x8769, 0x8825):
            entries = exif.get_ifd(tag)
            if entries:
                directory[tag] = dict(entries)
    directory[273] = 0  # Pillow makes this "right behind the directory"
    buffer = io.BytesIO()
    directory.save(buffer)
    buffer.write(strip)
    return buffer.getvalue()


_COUNTER = itertools.count()


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file that appears complete or not at all, even when the program is killed half-way.

    On Linux the bytes go into a file without a name, which vanishes with the program; elsewhere into `<name>.part`.

    Raises:
        OSError: the folder is missing or read-only, the disk is full.
    """
    path = Path(path)
    # Not made from the file's own name, which may be as long as a name can be.
    beside = path.with_name(f".{os.getpid()}-{next(_COUNTER)}.part")
    try:
        if not _write_nameless(beside, content):
            with beside.open("wb") as stream:
                _fill(stream, content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _write_nameless(path: Path, content: bytes) -> bool:
    """Names a file only once it is complete; False where the system or the file system cannot do that."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return False
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            handle = os.open(".", flag | os.O_WRONLY, 0o666, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
                return False
            raise
        with os.fdopen(handle, "wb") as stream:
            _fill(stream, content)
            # With a folder given, Python follows the link to the file behind it instead of linking the link.
            os.link(f"/proc/self/fd/{stream.fileno()}", path.name, dst_dir_fd=folder)
        return True
    except FileNotFoundError:  # no /proc
        return False
    finally:
        os.close(folder)


def _fill(stream: BinaryIO, content: bytes) -> None:
    stream.write(content)
    stream.flush()
    os.fsync(stream.fileno())


def list_images(path: str | Path, *, recursive: bool = False, without: Iterable[str | Path] = ()) -> list[Path]:
    """The pictures that a path stands for: itself when it is a file, else the files of the folder by name, hidden ones
    left out. Links that lead nowhere and folders that may not be opened are listed, too: reading them says why.

    Args:
        path: a file or a folder.
        recursive: look into its folders as well, but through no link to a folder, which may lead back.
        without: folders that are left out.

    Raises:
        ImageError: there is nothing of that name, or the folder holds no file with an ending of a picture.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{shown(path)}: no such file or folder")
    skipped = {Path(folder).resolve() for folder in without}
    found: list[Path] = []

    def refused(error: OSError) -> None:
        if not recursive or Path(error.filename) == path:
            raise ImageError(f"{shown(path)}: {error.strerror}", error.errno)
        found.append(Path(error.filename))

    for folder, folders, files in os.walk(path, onerror=refused):
        place = Path(folder)
        found += [place / name for name in files if name[0] != "." and Path(name).suffix.lower() in READABLE]
        inner = [name for name in folders if name[0] != "." and not skipped & {(place / name).resolve()}]
        folders[:] = sorted(inner) if recursive else []
    if not found:
        raise ImageError(f"{shown(path)}: no picture in this folder ({' '.join(sorted(READABLE))})")
    return sorted(found)
