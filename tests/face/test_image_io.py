"""Pictures come in whole or not at all, and keep what they carry."""

from __future__ import annotations

import errno
import functools
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from ppgan_fr.face import image_io
from ppgan_fr.face.image_io import ImageError, Photo, decode_photo, list_images, read_image, read_photo, write_photo

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def gradient(height=24, width=40, dtype=np.uint8):
    """Four different corners, so that every orientation is told from every other."""
    y, x = np.mgrid[:height, :width]
    top = np.iinfo(dtype).max
    return np.stack([x / width, y / height, (x + y) / (height + width)], -1).__mul__(top).astype(dtype)


def exif_with(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a family"
    exif[0x8769] = {0x9003: "1927:10:24 12:00:00", 0xA002: 40, 0xA003: 24}
    return exif


@functools.cache  # it tells the second it was made
def profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_a_gray_png_becomes_three_equal_channels_and_one_again(tmp_path):
    gray = gradient()[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    photo = read_photo(tmp_path / "gray.png")
    assert photo.gray
    assert np.array_equal(photo.pixels, np.repeat(gray[..., None], 3, 2))
    write_photo(tmp_path / "out.png", photo)
    assert Image.open(tmp_path / "out.png").mode == "L"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), gray)


def test_colours_are_bgr():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (255, 128, 0)).save(buffer, "PNG")
    assert decode_photo(buffer.getvalue()).pixels[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_whatever_its_orientation_says(tmp_path, orientation):
    upright = Image.fromarray(gradient(48, 64))
    undo = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # the transpose that stores the picture so that EXIF turns it back
    stored = upright if orientation == 1 else upright.transpose(undo[orientation])
    stored.save(tmp_path / "photo.png", exif=exif_with(orientation))
    photo = read_photo(tmp_path / "photo.png")
    assert np.array_equal(photo.pixels[..., ::-1], np.asarray(upright))
    write_photo(tmp_path / "again.png", photo)
    again = Image.open(tmp_path / "again.png")
    assert again.getexif()[0x0112] == 1
    assert np.array_equal(np.asarray(again), np.asarray(upright))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_profile_and_xmp_are_kept_by_every_container(tmp_path, suffix):
    source = tmp_path / f"source{suffix}"
    exif = exif_with(1)
    if suffix == ".tif":
        exif = Image.Exif()
        exif.load(exif_with(1).tobytes())
        exif[700] = XMP
    Image.fromarray(gradient()).save(source, exif=exif, icc_profile=profile(), **_xmp(suffix))
    photo = read_photo(source)
    assert photo.metadata.icc == profile()
    write_photo(tmp_path / f"out{suffix}", photo)
    with Image.open(tmp_path / f"out{suffix}") as out:
        assert out.info["icc_profile"] == profile()
        assert out.getexif()[0x010E] == "a family"
        assert out.getexif().get_ifd(0x8769)[0x9003] == "1927:10:24 12:00:00"
    assert b'tiff:Orientation="1"' in read_photo(tmp_path / f"out{suffix}").metadata.xmp


def _xmp(suffix):
    if suffix == ".png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        return {"pnginfo": info}
    return {"xmp": XMP}


def test_the_pixel_size_in_exif_follows_an_enlarged_picture(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=exif_with(1))
    photo = read_photo(tmp_path / "a.jpg")
    write_photo(tmp_path / "b.jpg", Photo(cv2.resize(photo.pixels, (80, 48)), metadata=photo.metadata))
    with Image.open(tmp_path / "b.jpg") as out:
        entries = out.getexif().get_ifd(0x8769)
        assert (entries[0xA002], entries[0xA003]) == (80, 48)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("gray", [False, True])
def test_alpha_is_kept(tmp_path, suffix, gray):
    picture = gradient()
    pixels = np.repeat(picture[..., :1], 3, 2) if gray else picture
    # WebP may change colours under fully transparent pixels
    photo = Photo(pixels, alpha=np.maximum(picture[..., 1], 1), gray=gray)
    write_photo(tmp_path / f"a{suffix}", photo)
    back = read_photo(tmp_path / f"a{suffix}")
    assert np.array_equal(back.alpha, photo.alpha)
    assert np.array_equal(back.pixels, photo.pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("gray", "alpha"), [(False, False), (True, False), (False, True)])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix, gray, alpha):
    picture = gradient(dtype=np.uint16)
    pixels = np.repeat(picture[..., :1], 3, 2) if gray else picture
    metadata = image_io.Metadata(icc=profile(), xmp=XMP, exif=exif_with(1).tobytes()[6:], dpi=(300.0, 300.0))
    write_photo(tmp_path / f"a{suffix}", Photo(pixels, picture[..., 1] if alpha else None, gray, metadata))
    back = read_photo(tmp_path / f"a{suffix}")
    assert back.pixels.dtype == np.uint16
    assert np.array_equal(back.pixels, pixels)
    assert back.gray == gray
    assert (back.alpha is not None) == alpha
    assert back.metadata.icc == profile()
    assert back.metadata.dpi == pytest.approx((300, 300), abs=0.01)
    with Image.open(tmp_path / f"a{suffix}") as out:  # an independent reader
        assert out.size == (40, 24)
        assert out.getexif()[0x010E] == "a family"
        assert out.getexif().get_ifd(0x8769)[0x9003] == "1927:10:24 12:00:00"


def test_sixteen_bits_are_seen_as_eight_by_the_networks(tmp_path):
    write_photo(tmp_path / "a.png", Photo(gradient(dtype=np.uint16)))
    assert read_image(tmp_path / "a.png").dtype == np.uint8
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - gradient()).max() <= 1


def test_a_fine_jpeg_is_stored_as_it_came_and_a_coarse_one_better(tmp_path):
    for quality, grows in ((95, False), (40, True)):
        Image.fromarray(gradient(64, 64)).save(tmp_path / "a.jpg", quality=quality, subsampling=1)
        write_photo(tmp_path / "b.jpg", read_photo(tmp_path / "a.jpg"))
        source, result = Image.open(tmp_path / "a.jpg"), Image.open(tmp_path / "b.jpg")
        assert (sum(result.quantization[0]) < sum(source.quantization[0])) == grows
        assert Image.open(tmp_path / "b.jpg").layer[0][1:3] == source.layer[0][1:3]


def test_palette_and_bilevel_pictures_are_read(tmp_path):
    Image.fromarray(gradient()).quantize(16).save(tmp_path / "p.png")
    Image.fromarray(gradient()[..., 0] > 100).save(tmp_path / "b.png")
    assert read_image(tmp_path / "p.png").shape == (24, 40, 3)
    assert set(np.unique(read_image(tmp_path / "b.png"))) == {0, 255}


def test_inks_become_colours_without_their_profile(tmp_path):
    Image.fromarray(gradient()).convert("CMYK").save(tmp_path / "c.jpg", quality=95, icc_profile=b"inks")
    photo = read_photo(tmp_path / "c.jpg")
    assert np.abs(photo.pixels[..., ::-1].astype(int) - gradient()).mean() < 4
    assert photo.metadata.icc is None


def test_a_name_that_is_not_ascii_is_a_name(tmp_path):
    path = tmp_path / "フォト été 👨.png"
    write_photo(path, Photo(gradient()))
    assert np.array_equal(read_image(path), gradient())


def test_a_1x1_picture_is_a_picture(tmp_path):
    write_photo(tmp_path / "dot.png", Photo(np.full((1, 1, 3), 7, np.uint8)))
    assert read_image(tmp_path / "dot.png").tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".gif", ".bmp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_not_half_decoded(tmp_path, suffix, part):
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ImageError) as caught:
        read_photo(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.3, 0.95])
def test_a_truncated_16_bit_png_is_refused(tmp_path, part):
    noise = np.random.default_rng(0).integers(0, 65536, (60, 80, 3), np.uint16)
    write_photo(tmp_path / "a.png", Photo(noise))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ImageError):
        read_photo(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"this is no photo\n" * 20, "not a picture"), (b"\xff\xd8\xff\xe0" + b"\0" * 40, "a.jpg: ")],
)
def test_what_is_not_a_picture_is_one_line(tmp_path, content, reason):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_photo(tmp_path / "a.jpg")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for path in (tmp_path / "no.jpg", tmp_path):
        with pytest.raises(ImageError, match=str(path)):
            read_photo(path)


def bomb(width, height):
    """A tiny PNG that says it is enormous."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60_000, 60_000), (13_000, 12_000)])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path, size, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(bomb(*size))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="pixels"):
        read_photo(tmp_path / "bomb.png")


def test_12000_by_9000_is_within_the_limit():
    assert image_io.MAX_PIXELS >= 12_000 * 9_000


def test_writing_into_a_missing_folder_or_over_a_folder_is_one_line(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "missing" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(ImageError, match="cannot be written") as caught:
            write_photo(path, Photo(gradient()))
        assert str(path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_io.os, "fsync", full)
    with pytest.raises(ImageError, match="No space left on device"):
        write_photo(tmp_path / "a.png", Photo(gradient()))
    assert list(tmp_path.iterdir()) == []


def test_files_are_written_the_same_way_where_nameless_files_do_not_exist(tmp_path, monkeypatch):
    monkeypatch.delattr(image_io.os, "O_TMPFILE", raising=False)
    write_photo(tmp_path / "a.png", Photo(gradient()))
    write_photo(tmp_path / "a.png", Photo(gradient()[::-1]))
    assert np.array_equal(read_image(tmp_path / "a.png"), gradient()[::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_only_pictures_are_listed_and_in_order(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG"]
    assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(ImageError, match="no such file"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(ImageError, match="no picture"):
        list_images(tmp_path / "folder.png")
