"""One picture that shows many: a row per face, a column per version."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GAP, MARGIN, TITLE_HEIGHT = 4, 8, 28
PAPER, INK = 255, (40, 40, 40)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), tile: int = 160, rows_per_column: int = 0
) -> np.ndarray:
    """Lays pictures out in a table.

    Args:
        rows: per face, its versions, each (H, W, 3) uint8 BGR of any size; as many in every row.
        titles: a heading for each version.
        tile: side of a picture on the sheet, pixels; other shapes are fitted and centred.
        rows_per_column: continue beside the table after so many rows; 0: one long table.

    Returns:
        (H, W, 3) uint8 BGR.

    Raises:
        ValueError: there is nothing to show, or the rows differ in length.
    """
    if not rows or not rows[0]:
        raise ValueError("there is nothing to show")
    versions = len(rows[0])
    if any(len(row) != versions for row in rows):
        raise ValueError("every row must have as many pictures as the first")
    per_column = min(rows_per_column or len(rows), len(rows))
    columns = -(-len(rows) // per_column)
    top = MARGIN + (TITLE_HEIGHT if titles else 0)
    column_width = versions * (tile + GAP) - GAP + MARGIN
    sheet = np.full(
        (top + per_column * (tile + GAP) - GAP + MARGIN, MARGIN + columns * column_width, 3), PAPER, np.uint8
    )
    for number, row in enumerate(rows):
        column, line = divmod(number, per_column)
        y = top + line * (tile + GAP)
        for version, picture in enumerate(row):
            x = MARGIN + column * column_width + version * (tile + GAP)
            sheet[y : y + tile, x : x + tile] = _fitted(picture, tile)
    for column in range(columns):
        for version, title in enumerate(titles[:versions]):
            x = MARGIN + column * column_width + version * (tile + GAP)
            cv2.putText(
                sheet, title, (x, MARGIN + TITLE_HEIGHT // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA
            )
    return sheet


def _fitted(picture: np.ndarray, tile: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = tile / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    out = np.full((tile, tile, 3), PAPER, np.uint8)
    y, x = (tile - size[1]) // 2, (tile - size[0]) // 2
    out[y : y + size[1], x : x + size[0]] = small
    return out
