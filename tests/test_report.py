"""The report is one file that shows everything and loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ppgan_fr import report
from ppgan_fr.report import write_report
from tests.test_predict import lines, picture, restore


@pytest.fixture()
def finished(tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    Image.fromarray(picture()).save(album / 'tom & "jerry" <3.png')
    Image.fromarray(picture(1, 40, 40)).save(album / "tree.png")
    (album / "bad.jpg").write_text("<script>alert(1)</script>")
    output = tmp_path / "out"
    restore(album, output, report=True)
    return output


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_every_picture_is_inside_the_page(finished):
    text = (finished / "report.html").read_text()
    page = Page(text)
    assert len(page.of("img")) == 4  # photo and face, before and after
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.of("img"))
    assert not page.of("link")
    assert not [attributes for attributes in page.of("script") if "src" in attributes]
    assert not re.search(r"https?://", text)
    assert "default-src 'none'" in text


def test_sliders_can_be_used_with_the_keyboard_and_have_names(finished):
    ranges = Page((finished / "report.html").read_text()).of("input")
    assert len(ranges) == 2
    assert all(item["type"] == "range" and item["aria-label"] for item in ranges)


def test_names_are_text_and_failures_are_told(finished):
    text = (finished / "report.html").read_text()
    assert "tom &amp; &quot;jerry&quot; &lt;3.png" in text
    assert "not a picture" in text
    assert "<script>alert" not in text
    assert "no face found" in text
    assert "likeness 0.75" in text
    assert "<!--" not in text


def test_a_page_that_would_grow_too_large_lists_the_rest_without_pictures(finished, monkeypatch):
    monkeypatch.setattr(report, "MAX_BYTES", 0)
    text = write_report(lines(finished), finished).read_text()
    assert len(text) < 20_000
    assert "Not shown" in text


def test_large_photos_are_shown_small(tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (900, 1300, 3), np.uint8)).save(album / "large.png", compress_level=1)
    restore(album, tmp_path / "out", report=True)
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert int(page.of("img")[0]["width"]) == report.PHOTO_SIDE
    assert (tmp_path / "out" / "report.html").stat().st_size < 3_000_000


def test_the_page_says_what_was_left_alone_and_who_may_be_somebody_else():
    stranger = {"identity": {"passed": False, "similarity": 0.1, "threshold": 0.31, "kept": 0.5}}
    assert "may be somebody else" in report._remarks(stranger)[0]
    assert "likeness 0.10, 0.31 wanted, 50% of the input mixed back in" in report._remarks(stranger)[0]
    assert report._remarks({"left_alone": "sharp"}) == ["left alone: sharp already"]
    assert report._remarks({"identity": {"passed": True}}) == []
