"""Pictures in and out of files, with everything they carry: orientation, alpha, 16 bits, EXIF, ICC profile, XMP.

A file that cannot be read completely is refused with one line: a truncated JPEG is not half a photo. The size is read
from the header before a
pixel is decoded. Files are written beside their place (on Linux without a name) and appear complete or not at all.
"""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin, TiffImagePlugin

from ppgan_fr.face.align import to_8_bit

MAX_PIXELS = 150_000_000
"""Largest picture that is decoded: 12000 x 9000 passes, a decompression bomb does not."""

READABLE = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm"}
)
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
}
JPEG_QUALITY = 92
"""A photo that was stored worse than this is stored at this quality: its faces are new and deserve it."""

_ORIENTATION, _XMP, _EXIF_WIDTH, _EXIF_HEIGHT = 0x0112, 700, 0xA002, 0xA003


class ImageError(ValueError):
    """A file that is no picture, not a whole one, too large, or cannot be written. One line: where and why."""


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
    lossless: bool = True
    """False for JPEG and lossy WebP."""


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


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a picture as (H, W, 3) uint8 BGR, upright, whatever the file holds.

    Raises:
        ImageError: see `read_photo`.
    """
    return to_8_bit(read_photo(path, max_pixels).pixels)


def read_photo(path: str | Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads a picture with everything it carries. The first page of files with several.

    Args:
        path: JPEG, PNG, WebP, TIFF, BMP, GIF, PNM.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: no such file, no picture, a truncated or damaged one, or one with too many pixels.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns about pictures that `max_pixels` lets through, and about harmless slips in metadata.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise ImageError(
                        f"{path}: {width} x {height} pixels are too many (limit {max_pixels // 1_000_000} million)"
                    )
                metadata, bits = _metadata(image), _bits(image)
                image.load()
                return replace(_decode(path, image, bits), metadata=metadata)
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path}: {_not_a_picture(path)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: too many pixels (limit {max_pixels // 1_000_000} million)") from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it") from None
    except OSError as error:
        reason = error.strerror or ("the file is truncated" if "truncated" in str(error) else "the file is damaged")
        raise ImageError(f"{path}: {reason}") from None
    except Exception as error:  # noqa: BLE001 - decoders meet hostile files and raise whatever comes to their mind
        raise ImageError(f"{path}: the file is damaged ({type(error).__name__})") from None


def decode_photo(content: bytes, name: str = "picture", max_pixels: int = MAX_PIXELS) -> Photo:
    """`read_photo` of bytes that are already in memory; `name` stands in messages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(f"{name}: {image.width} x {image.height} pixels are too many")
                metadata, bits = _metadata(image), _bits(image)
                image.load()
                return replace(_decode(content, image, bits), metadata=metadata)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - as above
        raise ImageError(f"{name}: not a whole picture ({type(error).__name__})") from None


def _not_a_picture(path: Path) -> str:
    size = path.stat().st_size
    return "the file is empty" if size == 0 else "not a picture"


def _decode(source: Path | bytes, image: Image.Image, bits: int) -> Photo:
    """Pixels of a loaded picture, upright. Pillow has read the whole file by now, so truncation has shown itself."""
    orientation = _orientation(image)
    if bits == 16:
        content = source if isinstance(source, bytes) else source.read_bytes()
        array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if array is None or array.dtype != np.uint16:
            raise ImageError(
                f"{'picture' if isinstance(source, bytes) else source}: 16 bits in a form that is not supported"
            )
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
    return 8


def _metadata(image: Image.Image) -> Metadata:
    """Everything but pixels. Called before loading; damaged metadata is left out rather than in the way."""
    info = image.info
    exif = info.get("exif")
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if image.format == "TIFF":
        exif = _tiff_exif(image)
        xmp = xmp or image.tag_v2.get(_XMP)
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    lossless, tables, subsampling = True, None, None
    if image.format == "JPEG":
        lossless = False
        tables = {key: list(table) for key, table in image.quantization.items()}
        subsampling = JpegImagePlugin.get_sampling(image)
    elif image.format == "WEBP":
        image.fp.seek(0)
        lossless = b"VP8L" in image.fp.read(4096)
    dpi = info.get("dpi")
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
        lossless=lossless,
    )


def _tiff_exif(image: Image.Image) -> bytes | None:
    """The camera's entries of a TIFF as an EXIF block of its own."""
    try:
        source = image.getexif()
        kept = Image.Exif()
        for tag in (270, 271, 272, 305, 306, 315, 33432):  # description, make, model, software, date, artist, copyright
            if tag in source:
                kept[tag] = source[tag]
        for tag in (0x8769, 0x8825):
            entries = source.get_ifd(tag)
            if entries:
                kept[tag] = dict(entries)
        return kept.tobytes() if len(kept) else None
    except Exception:  # noqa: BLE001 - EXIF is written by every program there is
        return None


def upright_exif(exif: bytes, size: tuple[int, int] | None = None) -> bytes | None:
    """Sets the orientation of an EXIF block to upright, and its pixel size when given, touching no other byte.

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
        pending = [struct.unpack_from(f"{order}I", data, 4)[0]]
        seen = set()
        while pending:
            start = pending.pop()
            if start in seen:
                break
            seen.add(start)
            for i in range(struct.unpack_from(f"{order}H", data, start)[0]):
                at = start + 2 + 12 * i
                tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
                if tag in wanted and count == 1 and kind in (3, 4):
                    if kind == 4 or wanted[tag] < 65536:
                        struct.pack_into(f"{order}{'HI'[kind - 3]}", data, at + 8, wanted[tag])
                elif tag == 0x8769:
                    pending.append(struct.unpack_from(f"{order}I", data, at + 8)[0])
    except struct.error:
        return None
    return bytes(data)


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
    kind = _WRITABLE.get(path.suffix.lower())
    if kind is None:
        raise ImageError(
            f"{path}: cannot write {path.suffix or 'a file without an ending'}; use one of {' '.join(_WRITABLE)}"
        )
    try:
        content = encode_photo(photo, kind)
    except (OSError, ValueError, MemoryError) as error:
        raise ImageError(f"{path}: cannot be encoded ({error})") from None
    try:
        write_file(path, content)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror or error})") from None


def encode_photo(photo: Photo, kind: str = "PNG") -> bytes:
    """A photo as the bytes of a JPEG, PNG, WEBP, TIFF or BMP file."""
    metadata = photo.metadata
    if metadata.exif is not None:
        metadata = replace(metadata, exif=upright_exif(metadata.exif, photo.pixels.shape[1::-1]))
    if photo.pixels.dtype == np.uint16 and kind in ("PNG", "TIFF"):
        array = _joined(photo)
        return _png_16(array, metadata) if kind == "PNG" else _tiff(array, metadata)
    array = to_8_bit(_joined(replace(photo, alpha=None) if kind in ("JPEG", "BMP") else photo))
    if kind == "TIFF":
        return _tiff(array, metadata)
    if array.ndim == 2:
        image = Image.fromarray(array)
    elif array.shape[2] == 2:
        image = Image.fromarray(array, "LA") if kind != "WEBP" else Image.fromarray(array, "LA").convert("RGBA")
    else:
        code = cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        image = Image.fromarray(cv2.cvtColor(array, code))
    options: dict[str, Any] = {}
    if kind != "BMP":
        exif = None if metadata.exif is None else b"Exif\0\0" + metadata.exif
        options = {"exif": exif, "icc_profile": metadata.icc, "xmp": metadata.xmp, "dpi": metadata.dpi}
    if kind == "JPEG":
        options |= _jpeg_options(metadata)
    elif kind == "PNG":
        options |= {"compress_level": 3, "pnginfo": _png_text(metadata)}
        options.pop("xmp")
    elif kind == "WEBP":
        options |= {"lossless": True, "quality": 60} if metadata.lossless else {"quality": 95, "method": 4}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(buffer, kind, **{key: value for key, value in options.items() if value is not None})
    return buffer.getvalue()


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
    return chosen


def _png_text(metadata: Metadata) -> Any:
    if metadata.xmp is None:
        return None
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    return text


def _exif_for_tiff(metadata: Metadata) -> Image.Exif | None:
    """A TIFF keeps EXIF and XMP as entries of its own directory."""
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(b"Exif\0\0" + metadata.exif)
    if metadata.xmp is not None:
        exif[_XMP] = metadata.xmp
    return exif if len(exif) else None


def _png_16(array: np.ndarray, metadata: Metadata) -> bytes:
    """OpenCV writes the 16 bits; the chunks that it does not know are put in behind the header."""
    if array.ndim == 3 and array.shape[2] == 2:  # OpenCV has no gray with alpha
        array = np.concatenate([np.repeat(array[..., :1], 3, 2), array[..., 1:]], 2)
    content = cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    extra = b""
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
                if tag == _XMP:
                    directory.tagtype[tag] = 1
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


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file that appears complete or not at all, even when the program is killed half-way.

    On Linux the bytes go into a file without a name, which vanishes with the program; elsewhere into `<name>.part`.

    Raises:
        OSError: the folder is missing or read-only, the disk is full.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
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


def list_images(path: str | Path) -> list[Path]:
    """The pictures that a path stands for: itself when it is a file, else the files of the folder by name, hidden ones
    left out.

    Raises:
        ImageError: there is nothing of that name, or the folder holds no file with an ending of a picture.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ImageError(f"{path}: no such file or folder")
    try:
        found = sorted(_pictures(path.iterdir()))
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    if not found:
        raise ImageError(f"{path}: no picture in this folder ({' '.join(sorted(READABLE))})")
    return found


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in READABLE and path.name[0] != "." and path.is_file()]
