"""The round trip of everything a picture carries, over a matrix of containers: read by us, marked, written by us, and
read by others: Pillow always, exiftool where it is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from ppgan_fr.face import image_io
from ppgan_fr.face.image_io import ImageError, Photo, encode_photo, parse_photo, read_photo, write_photo
from ppgan_fr.face.xmp import SOURCE_TYPE, mark_as_enhanced

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:tiff="http://ns.adobe.com/tiff/'
    b'1.0/" tiff:Orientation="6"><dc:creator><rdf:Seq><rdf:li>Erna</rdf:li></rdf:Seq></dc:creator></rdf:Description>'
    b"</rdf:RDF></x:xmpmeta>"
)
# IPTC-IIM in Photoshop's block: record 2, data set 120 (caption)
IPTC = b"\x1c\x02\x78\x00\x07harvest"
PHOTOSHOP = b"8BIM\x04\x04\x00\x00" + struct.pack(">I", len(IPTC)) + IPTC
MATRIX = ["jpg", "png", "png16", "tif", "tif16", "bigtiff", "webp", "webp_lossy", "heic", "heic10"]
LOSSLESS = ["png", "png16", "tif", "tif16", "bigtiff", "webp"]


def gradient(height=48, width=64, dtype=np.uint8):
    y, x = np.mgrid[:height, :width]
    top = np.iinfo(dtype).max
    return (np.stack([x / width, y / height, (x + y) / (height + width)], -1) * top).astype(dtype)


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif():
    block = Image.Exif()
    block[0x0112] = 6
    block[0x010E] = "a family"
    block[0x8298] = "the archive"
    block[0x8769] = {0x9003: "1927:10:24 12:00:00", 0x829A: TiffImagePlugin.IFDRational(1, 60)}
    block[0x8825] = {1: "N", 2: (52.0, 31.0, 12.5)}
    return block


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make(folder, case):
    """A file of this kind, stored turned by 90 degrees, written without our code as far as others can."""
    picture = gradient()
    path = folder / f"source.{case.replace('16', '').replace('10', '').replace('bigtiff', 'tif').partition('_')[0]}"
    if case.startswith("heic"):
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.register_heif_opener()
    carried = {"exif": exif(), "icc_profile": PROFILE, "dpi": (300, 300)}
    if case == "jpg":
        Image.fromarray(picture).save(path, quality=96, subsampling=1, xmp=XMP, comment=b"page 7", **carried)
        segment = b"Photoshop 3.0\0" + PHOTOSHOP
        content = path.read_bytes()
        path.write_bytes(content[:20] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + content[20:])
    elif case == "png":
        Image.fromarray(picture).save(path, **carried)
        content, texts = path.read_bytes(), chunk(b"tEXt", b"Comment\0page 7") + chunk(b"gAMA", b"\0\0\xb1\x8f")
        texts += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        path.write_bytes(content[:33] + texts + content[33:])
    elif case == "png16":
        content = cv2.imencode(".png", gradient(dtype=np.uint16)[..., ::-1])[1].tobytes()
        extra = chunk(b"iCCP", b"x\0\0" + zlib.compress(PROFILE)) + chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))
        extra += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + chunk(b"eXIf", exif().tobytes()[6:])
        path.write_bytes(content[:33] + extra + content[33:])
    elif case in ("tif", "bigtiff"):
        block = Image.Exif()
        block.load(exif().tobytes())
        block[700], block[33723] = XMP, IPTC
        Image.fromarray(picture).save(path, **{**carried, "exif": block}, big_tiff=case == "bigtiff")
    elif case == "tif16":
        write_photo(path, Photo(gradient(dtype=np.uint16)[..., ::-1]))  # OpenCV writes no EXIF into a TIFF
        with_exif(path)
    elif case.startswith("webp"):
        Image.fromarray(picture).save(path, lossless=case == "webp", quality=90, xmp=XMP, **carried)
    elif case == "heic":
        Image.fromarray(picture).save(path, quality=95, xmp=XMP, exif=exif(), icc_profile=PROFILE)
    else:
        import pillow_heif

        deep = gradient(dtype=np.uint16)
        file = pillow_heif.from_bytes("RGB;16", (64, 48), deep.tobytes())
        file.save(path, quality=-1, chroma=444, matrix_coefficients=0, xmp=XMP, exif=exif().tobytes())
    return path


def with_exif(path):
    """Gives a TIFF the entries of the matrix by exiftool, so that no code of ours has made them."""
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    (path.parent / "p.icc").write_bytes(PROFILE)
    (path.parent / "x.xmp").write_bytes(XMP)
    tags = ["-ImageDescription=a family", "-Copyright=the archive", "-DateTimeOriginal=1927:10:24 12:00:00"]
    tags += ["-Orientation#=6", "-GPSLatitude=52.52", "-GPSLatitudeRef=N", "-ExposureTime=1/60"]
    tags += [f"-icc_profile<={path.parent / 'p.icc'}", "-Caption-Abstract=harvest"]
    copied = ["-tagsfromfile", str(path.parent / "x.xmp"), "-xmp:all"]
    subprocess.run(["exiftool", "-q", "-overwrite_original", *copied, *tags, str(path)], check=True)


def round_trip(folder, case):
    source = make(folder, case)
    photo = read_photo(source)
    result = folder / f"result{source.suffix}"
    write_photo(result, replace(photo, metadata=mark_as_enhanced(photo.metadata, 1, "gfpgan_mobile")))
    return source, photo, result


@pytest.mark.parametrize("case", MATRIX)
def test_everything_a_picture_carries_is_there_for_another_reader(tmp_path, case):
    source, photo, result = round_trip(tmp_path, case)
    assert photo.pixels.shape[:2] == (64, 48)
    assert photo.pixels.dtype == (np.uint16 if case.endswith(("16", "10")) else np.uint8)
    with Image.open(result) as out:
        entries = out.getexif()
        assert entries.get(0x0112, 1) == 1
        assert entries[0x010E] == "a family"
        assert entries[0x8298] == "the archive"
        assert entries.get_ifd(0x8769)[0x9003] == "1927:10:24 12:00:00"
        assert float(entries.get_ifd(0x8769)[0x829A]) == pytest.approx(1 / 60)
        assert entries.get_ifd(0x8825)[1] == "N"
        if case != "heic10":
            assert out.info["icc_profile"] == PROFILE
        if not case.startswith(("webp", "heic", "tif16")):
            assert out.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    packet = read_photo(result).metadata.xmp
    assert b"Erna" in packet
    assert not re.search(rb"tiff:Orientation(=.|>)[2-8]", packet)
    assert SOURCE_TYPE.encode() in packet


@pytest.mark.parametrize("case", LOSSLESS)
def test_a_lossless_container_gives_every_pixel_back(tmp_path, case):
    source, photo, result = round_trip(tmp_path, case)
    assert np.array_equal(read_photo(result).pixels, photo.pixels)
    expected = gradient(dtype=photo.pixels.dtype.type)[..., ::-1]
    assert np.array_equal(photo.pixels, np.rot90(expected, -1))
    other = cv2.imread(str(result), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    assert np.array_equal(other, photo.pixels)


@pytest.mark.parametrize("case", MATRIX)
def test_exiftool_finds_the_same_tags_before_and_after(tmp_path, case):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    source, _, result = round_trip(tmp_path, case)
    before, after = exiftool(source), exiftool(result)
    # what is about the file, its compression and its turn; the directory's own texts are looked at by name
    changing = (
        "SourceFile System: File: ExifTool: Composite: JFIF: XMP-tiff:Orientation IFD0: PNG: PNG-pHYs: XMP-x: "
        "XMP-iptcExt: XMP-xmpMM: RIFF: Meta: HEIF: QuickTime: ItemProp GPSInfo:"
    )
    for name, value in before.items():
        name = name.replace("ExifOffset:", "ExifIFD:")  # exiftool's word for it in a BigTIFF
        kept_tag = name in ("IFD0:ImageDescription", "IFD0:Copyright", "PNG:Comment", "PNG:Gamma")
        if kept_tag or not name.startswith(tuple(changing.split())):
            assert after.get(name) == value, name
    assert after["XMP-iptcExt:DigitalSourceType"] == SOURCE_TYPE
    assert after["XMP-xmpMM:HistoryAction"] in ("edited", ["edited"])
    assert after["XMP-dc:Creator"] in ("Erna", ["Erna"])
    assert after.get("IFD0:Orientation", 1) == 1
    if case in ("jpg", "tif", "tif16", "bigtiff"):
        assert after["IPTC:Caption-Abstract"] == "harvest"
    assert "ExifTool:Error" not in after
    assert not re.search("XMP|ICC|corrupt|Bad", str(after.get("ExifTool:Warning")))


def exiftool(path):
    answer = subprocess.run(
        ["exiftool", "-j", "-G1", "-n", "-struct", "-a", "-all", "-validate", str(path)],
        capture_output=True,
        check=True,
    )
    tags = json.loads(answer.stdout)[0]
    history = tags.pop("XMP-xmpMM:History", None)
    if history:
        tags["XMP-xmpMM:HistoryAction"] = [one["Action"] for one in history]
    return {name: value for name, value in tags.items() if not name.startswith("ExifTool:Validate")}


def test_a_jpeg_keeps_its_comment_captions_and_the_rest_of_a_long_xmp(tmp_path):
    source = make(tmp_path, "jpg")
    rest = b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + struct.pack(">II", 5, 0) + b"<a/>\n"
    offsets = b"MPF\0" + b"x" * 20
    parts = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
        for marker, data in ((0xE1, rest), (0xE2, offsets))
    )
    content = source.read_bytes()
    written = encode_photo(parse_photo(content[:2] + parts + content[2:], "a.jpg"), "JPEG")
    assert rest in written
    assert b"harvest" in written
    assert b"page 7" in written
    assert offsets not in written  # of pictures that are no longer there
    assert Image.open(__import__("io").BytesIO(written)).info["comment"] == b"page 7"
    assert written.count(b"Photoshop 3.0") == 1


def test_parts_of_a_jpeg_do_not_end_up_in_a_png(tmp_path):
    assert b"harvest" not in encode_photo(read_photo(make(tmp_path, "jpg")), "PNG")


def test_a_progressive_jpeg_stays_progressive(tmp_path):
    for progressive in (False, True):
        Image.fromarray(gradient()).save(tmp_path / "a.jpg", quality=95, progressive=progressive)
        write_photo(tmp_path / "b.jpg", read_photo(tmp_path / "a.jpg"))
        assert ("progressive" in Image.open(tmp_path / "b.jpg").info) == progressive


def test_a_jpeg_with_a_second_picture_behind_it_is_a_jpeg(tmp_path):
    first, second = Image.fromarray(gradient()), Image.fromarray(gradient()[::-1])
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    photo = read_photo(tmp_path / "a.jpg")
    assert (photo.pages, photo.metadata.container, photo.metadata.lossless) == (1, "JPEG", False)
    write_photo(tmp_path / "b.jpg", photo)
    with Image.open(tmp_path / "b.jpg") as out:
        assert out.format == "JPEG"


def test_a_preview_that_would_stay_turned_is_cut_off():
    block = exif()
    thumbnail = {0x0103: 6, 0x0201: 200, 0x0202: 2}
    raw = bytearray(block.tobytes()[6:])
    order = "<" if raw[:2] == b"II" else ">"
    first = struct.unpack_from(f"{order}I", raw, 4)[0]
    link = first + 2 + 12 * struct.unpack_from(f"{order}H", raw, first)[0]
    struct.pack_into(f"{order}I", raw, link, len(raw))
    raw += struct.pack(f"{order}H", len(thumbnail))
    for tag, value in thumbnail.items():
        raw += struct.pack(f"{order}HHII", tag, 4, 1, value)
    raw += struct.pack(f"{order}I", 0)
    assert struct.unpack_from(f"{order}I", image_io.upright_exif(bytes(raw)), link)[0] == 0
    upright = image_io.upright_exif(bytes(raw))
    struct.pack_into(f"{order}I", raw := bytearray(upright), link, 77)
    assert struct.unpack_from(f"{order}I", image_io.upright_exif(bytes(raw)), link)[0] == 77  # stands upright already


def test_a_lossless_webp_with_a_large_profile_stays_lossless(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.webp", lossless=True, exact=True, icc_profile=PROFILE * 20)
    photo = read_photo(tmp_path / "a.webp")
    assert photo.metadata.lossless
    write_photo(tmp_path / "b.webp", photo)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.webp")), noise)  # also where it is transparent


@pytest.mark.parametrize("depth", [8, 16])
def test_a_gray_png_with_alpha_stays_gray_with_alpha(tmp_path, depth):
    kind = np.uint8 if depth == 8 else np.uint16
    gray, alpha = gradient(dtype=kind)[..., 0], gradient(dtype=kind)[..., 1]
    photo = Photo(np.repeat(gray[..., None], 3, 2), alpha, gray=True)
    write_photo(tmp_path / "a.png", photo)
    header = (tmp_path / "a.png").read_bytes()[24:26]
    assert header == bytes([depth, 4])
    back = read_photo(tmp_path / "a.png")
    assert back.gray
    assert np.array_equal(back.pixels[..., 0], gray)
    assert np.array_equal(back.alpha, alpha)
    independent = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(independent[..., 3], alpha)
    assert np.array_equal(independent[..., 0], gray)


def test_heic_without_its_package_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"a\.heic: HEIC needs the package pillow-heif"):
        read_photo(tmp_path / "a.heic")


@pytest.mark.parametrize(
    ("name", "pages"), [("a.gif", 3), ("a.webp", 3), ("a.png", 3), ("pages.tif", 2), ("pyramid.tif", 1)]
)
def test_animations_and_pages_are_counted_and_previews_are_not(tmp_path, name, pages):
    frames = [Image.fromarray(np.roll(gradient(), 9 * i, 1)) for i in range(3)]
    if name == "pages.tif":
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:2])
    elif name == "pyramid.tif":
        frames[1].encoderinfo = {"tiffinfo": {254: 1}}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:2])
    else:
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    photo = read_photo(tmp_path / name)
    assert photo.pages == pages
    assert photo.pixels.shape == (48, 64, 3)
