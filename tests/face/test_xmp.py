"""What a restored photo says of itself, beside everything that it said before."""

from __future__ import annotations

from xml.dom import minidom

import pytest

from ppgan_fr import __version__
from ppgan_fr.face.image_io import Metadata
from ppgan_fr.face.xmp import MAX_PACKET, SOURCE_TYPE, mark_as_enhanced

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
MM = "http://ns.adobe.com/xap/1.0/mm/"
EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"

FULL = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="scanner">
 <r:RDF xmlns:r="{RDF}">
  <r:Description r:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:ext="{IPTC}" xmlns:own="http://own/"
      ext:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/print" own:shelf="7 &amp; 8">
   <dc:title><r:Alt><r:li xml:lang="x-default">Die Großmutter</r:li></r:Alt></dc:title>
  </r:Description>
  <r:Description r:about="" xmlns:xmpMM="{MM}" xmlns:stEvt="{EVENT}">
   <xmpMM:History><r:Seq><r:li stEvt:action="created" stEvt:softwareAgent="scanner"/></r:Seq></xmpMM:History>
  </r:Description>
 </r:RDF>
</x:xmpmeta>
                                                                          <?xpacket end="w"?>""".encode()


def marked(packet, faces=2):
    return mark_as_enhanced(Metadata(xmp=packet), faces, "gfpgan_mobile").xmp


def read(packet):
    return minidom.parseString(packet)


def texts(document, space, name):
    return [node.firstChild.data for node in document.getElementsByTagNameNS(space, name)]


def test_a_photo_without_xmp_gets_a_packet():
    document = read(marked(None))
    assert texts(document, IPTC, "DigitalSourceType") == [SOURCE_TYPE]
    assert texts(document, EVENT, "action") == ["edited"]
    assert texts(document, EVENT, "softwareAgent") == [f"ppgan-fr {__version__}"]
    assert texts(document, EVENT, "parameters") == ["2 faces restored by a neural network (gfpgan_mobile)"]
    assert marked(None).startswith(b"<?xpacket begin=")


def test_the_note_is_merged_into_what_is_there():
    packet = marked(FULL, faces=1)
    document = read(packet)
    assert texts(document, IPTC, "DigitalSourceType") == [SOURCE_TYPE]
    assert b"digitalsourcetype/print" not in packet
    assert "Die Großmutter".encode() in packet
    assert document.getElementsByTagNameNS(RDF, "Description")[0].getAttributeNS("http://own/", "shelf") == "7 & 8"
    entries = document.getElementsByTagNameNS(RDF, "Seq")[0].getElementsByTagNameNS(RDF, "li")
    assert [entry.getAttributeNS(EVENT, "action") for entry in entries] == ["created", ""]
    assert texts(document, EVENT, "parameters") == ["1 face restored by a neural network (gfpgan_mobile)"]
    assert len(document.getElementsByTagNameNS(MM, "History")) == 1


def test_a_second_restoration_adds_a_second_entry_and_no_second_source_type():
    document = read(marked(marked(FULL)))
    assert len(texts(document, IPTC, "DigitalSourceType")) == 1
    assert len(document.getElementsByTagNameNS(RDF, "Seq")[0].getElementsByTagNameNS(RDF, "li")) == 3


def test_the_same_photo_always_gives_the_same_note():
    assert marked(FULL) == marked(FULL)


def test_xmp_in_utf_16_is_understood():
    assert "Die Großmutter".encode() in marked(FULL.decode().encode("utf-16"))


@pytest.mark.parametrize(
    "packet",
    [
        b"<x:xmpmeta",
        b"no xml",
        b"<a/>",
        b"\xff\xfe\x00",
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + FULL,
        FULL.replace(b"7 &amp; 8", b"&lol;"),
        b"<r>" * 5000,
    ],
)
def test_damaged_xmp_stays_as_it_is(packet):
    assert marked(packet) == packet


def test_a_packet_that_no_longer_fits_into_a_jpeg_stays_as_it_is():
    long = FULL.replace(b"scanner", b"s" * (MAX_PACKET - 500))
    assert mark_as_enhanced(Metadata(xmp=long, container="JPEG"), 1, "x").xmp == long
    assert mark_as_enhanced(Metadata(xmp=long, container="PNG"), 1, "x").xmp != long
