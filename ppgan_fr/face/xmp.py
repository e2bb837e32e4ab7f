"""The note in a restored photo that says so, in XMP: the IPTC digital source type and an entry in the history.

XMP specification part 1 (ISO 16684-1) for the packet, part 2 for `xmpMM:History`; IPTC Photo Metadata Standard for
`Iptc4xmpExt:DigitalSourceType`, whose values are the NewsCodes of http://cv.iptc.org/newscodes/digitalsourcetype/.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from ppgan_fr import __version__

if TYPE_CHECKING:
    from ppgan_fr.face.image_io import Metadata

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
"""Modified or corrected by an algorithm, the main content being what it was."""
MAX_PACKET = 65_502
"""What one segment of a JPEG holds; a longer packet is left as it is."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_META = "adobe:ns:meta/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_MM = "http://ns.adobe.com/xap/1.0/mm/"
_EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_EMPTY = f'<x:xmpmeta xmlns:x="{_META}"><rdf:RDF xmlns:rdf="{_RDF}"></rdf:RDF></x:xmpmeta>'
_PACKET = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>{}<?xpacket end="w"?>'


def mark_as_enhanced(metadata: Metadata, faces: int, network: str) -> Metadata:
    """Adds the digital source type and an entry of history to what a photo carries.

    The entry has no time: the same photo gives the same file whenever it is restored.

    Args:
        metadata: of the source.
        faces: how many were restored.
        network: its name.

    Returns:
        The metadata with everything else in its XMP kept. XMP that is damaged, or too long for a JPEG, stays as it is.
    """
    what = f"{'1 face' if faces == 1 else f'{faces} faces'} restored by a neural network ({network})"
    try:
        packet = noted(metadata.xmp, f"ppgan-fr {__version__}", what)
    except (ValueError, ExpatError, RecursionError):
        return metadata
    if len(packet) > MAX_PACKET and metadata.container == "JPEG":
        return metadata
    return replace(metadata, xmp=packet)


def noted(packet: bytes | None, agent: str, what: str) -> bytes:
    """An XMP packet with the note in it.

    Args:
        packet: of the source, or None.
        agent: for the history, the program.
        what: for the history, what it did.

    Raises:
        ValueError, ExpatError: the packet is not well-formed, or has no RDF in it, or declares entities.
    """
    document = minidom.parseString(_without_frame(packet) if packet else _EMPTY.encode())
    try:
        rdf = next(iter(document.getElementsByTagNameNS(_RDF, "RDF")), None)
        if rdf is None:
            raise ValueError("no rdf:RDF")
        descriptions = [one for one in rdf.childNodes if _is(one, _RDF, "Description")]
        for one in descriptions:
            _remove(one, _IPTC, "DigitalSourceType")
        if not descriptions:
            descriptions = [rdf.appendChild(_element(document, rdf, _RDF, "rdf", "Description"))]
            descriptions[0].setAttributeNS(_RDF, f"{_prefix(rdf, _RDF, 'rdf')}:about", "")
        _put(document, descriptions[0], _IPTC, "Iptc4xmpExt", "DigitalSourceType", SOURCE_TYPE)
        event = _event(document, descriptions)
        _put(document, event, _EVENT, "stEvt", "action", "edited")
        _put(document, event, _EVENT, "stEvt", "softwareAgent", agent)
        _put(document, event, _EVENT, "stEvt", "parameters", what)
        return _PACKET.format(document.documentElement.toxml()).encode()
    finally:
        document.unlink()


def _without_frame(packet: bytes) -> bytes:
    """The XML of a packet without the instructions around it, which may stand in the way of a parser."""
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        raise ValueError("entities in XMP")
    if packet[:2] in (b"\xff\xfe", b"\xfe\xff"):
        packet = packet.decode("utf-16").encode()
    packet = re.sub(rb"<\?xpacket[^>]*\?>", b"", packet)
    return packet.strip(b"\xef\xbb\xbf \t\r\n\0")


def _event(document: minidom.Document, descriptions: list[minidom.Element]) -> minidom.Element:
    """A new entry at the end of `xmpMM:History`."""
    history = next((child for one in descriptions for child in one.childNodes if _is(child, _MM, "History")), None)
    if history is None:
        history = descriptions[0].appendChild(_element(document, descriptions[0], _MM, "xmpMM", "History"))
    sequence = next((child for child in history.childNodes if _is(child, _RDF, "Seq")), None)
    if sequence is None:
        sequence = history.appendChild(_element(document, history, _RDF, "rdf", "Seq"))
    entry = sequence.appendChild(_element(document, sequence, _RDF, "rdf", "li"))
    entry.setAttributeNS(_RDF, f"{_prefix(sequence, _RDF, 'rdf')}:parseType", "Resource")
    return entry


def _put(document: minidom.Document, parent: minidom.Element, space: str, prefix: str, name: str, text: str) -> None:
    child = parent.appendChild(_element(document, parent, space, prefix, name))
    child.appendChild(document.createTextNode(text))


def _element(
    document: minidom.Document, parent: minidom.Element, space: str, prefix: str, name: str
) -> minidom.Element:
    """An element with the prefix that is in force for its namespace at `parent`, or one that it declares itself."""
    used = _prefix(parent, space, "")
    child = document.createElementNS(space, f"{used or prefix}:{name}")
    if not used:
        child.setAttributeNS(_XMLNS, f"xmlns:{prefix}", space)
    return child


def _prefix(node: minidom.Node | None, space: str, otherwise: str) -> str:
    hidden = set()
    while node is not None and node.nodeType == node.ELEMENT_NODE:
        for name, value in node.attributes.items():
            if name.startswith("xmlns:"):
                if value == space and name not in hidden:
                    return name[6:]
                hidden.add(name)
        node = node.parentNode
    return otherwise


def _remove(element: minidom.Element, space: str, name: str) -> None:
    if element.hasAttributeNS(space, name):
        element.removeAttributeNS(space, name)
    for child in [child for child in element.childNodes if _is(child, space, name)]:
        element.removeChild(child)


def _is(node: minidom.Node, space: str, name: str) -> bool:
    return node.nodeType == node.ELEMENT_NODE and node.namespaceURI == space and node.localName == name
