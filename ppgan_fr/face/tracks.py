"""Faces of single frames become tracks: the same face from frame to frame, with landmarks that do not tremble.

A detector errs by a pixel or so, and by another pixel in the next frame; a crop cut by such points shakes, and what a
network paints into it shakes too. A video is no live stream, so the future helps: the landmarks of a frame come from a
straight line laid through those of its neighbours on both sides (locally weighted regression, Cleveland 1979). That has
no lag, and at the two ends of a track no pull towards the middle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from ppgan_fr.face.detect import intersection_over_union
from ppgan_fr.face.types import Detect, Face

WINDOW = 8
"""How many frames are looked at before and after; results come this much later."""
SPREAD = 2.5
"""Standard deviation of the weights, in frames."""
GAP = 5
"""A face that is not found for more frames than this has gone."""
SHORTEST = 3
"""A face that is found in fewer frames is none."""
FADE = 3
"""Frames over which a face that appears or goes within a shot is faded in or out."""
SIDES = (160, 320, 640)
"""Squares in which a known face is looked for: few sizes, since engines prepare themselves for each one."""


@dataclass(frozen=True)
class TrackedFace:
    """A face of a track in one frame."""

    track: int
    face: Face
    """Box and landmarks smoothed, also where the detector missed the face for a moment."""
    fade: float
    """1, or less near the beginning or the end of a track inside a shot."""


@dataclass(eq=False)
class _Seen:
    index: int
    time: float
    values: np.ndarray
    """(14,): box and landmarks."""
    score: float


@dataclass(eq=False)
class _Track:
    number: int
    first: int
    from_start: bool
    """Begins where the shot begins."""
    count: int = 0
    seen: deque[_Seen] = field(default_factory=deque)

    def expected(self, time: float) -> np.ndarray:
        """Where box and landmarks should be, by the speed of the last two finds."""
        last = self.seen[-1]
        if len(self.seen) < 2 or last.time <= self.seen[-2].time:
            return last.values
        before = self.seen[-2]
        values = last.values.copy()
        shift = (last.values - before.values) * (time - last.time) / (last.time - before.time)
        values[:2] += shift[:2]
        values[4:] += shift[4:]
        return values


class Tracks:
    """Takes the faces of one frame after the other, gives the tracked faces of the frame `window` frames ago."""

    def __init__(self, window: int = WINDOW, spread: float = SPREAD, gap: int = GAP, shortest: int = SHORTEST):
        """The defaults are the constants of this module. `window` must be at least `gap` + `FADE`."""
        self.window, self.spread, self.gap, self.shortest = window, spread, gap, shortest
        self._tracks: list[_Track] = []
        self._times: deque[tuple[int, float]] = deque()
        self._next_frame = self._next_track = 0
        self._shot_start = 0

    def boxes(self) -> list[np.ndarray]:
        """(4,) boxes of the faces that should be in the next frame, as they were in the last one."""
        return [track.seen[-1].values[:4] for track in self._tracks if not self._is_over(track, self._next_frame)]

    def push(self, time: float, faces: Sequence[Face], cut: bool = False) -> list[list[TrackedFace]]:
        """Takes the next frame.

        Args:
            time: of the frame in any unit, growing.
            faces: found in it.
            cut: the frame is the first of another shot.

        Returns:
            The tracked faces of every frame that is certain now, in order: none, one, or after a cut all that waited.
        """
        ready = self.flush() if cut else []
        index, self._next_frame = self._next_frame, self._next_frame + 1
        self._times.append((index, time))
        self._associate(index, time, faces)
        if len(self._times) > self.window:
            ready.append(self._emit())
        return ready

    def flush(self) -> list[list[TrackedFace]]:
        """The frames that wait, at the end of a shot or of the video. What comes next is another shot."""
        ready = [self._emit() for _ in range(len(self._times))]
        self._tracks = []
        self._shot_start = self._next_frame
        return ready

    def _is_over(self, track: _Track, index: int) -> bool:
        return index - track.seen[-1].index - 1 > self.gap

    def _associate(self, index: int, time: float, faces: Sequence[Face]) -> None:
        alive = [track for track in self._tracks if not self._is_over(track, index)]
        pairs = []
        for i, track in enumerate(alive):
            expected = track.expected(time)
            for j, face in enumerate(faces):
                overlap = float(intersection_over_union(face.box, expected[None, :4])[0])
                size = max(float(expected[2:4].max()), 1.0)
                distance = float(np.hypot(*(face.landmarks - expected[4:].reshape(5, 2)).T).mean()) / size
                if overlap > 0.2 and distance < 0.4:
                    pairs.append((distance - overlap, i, j))
        used_tracks: set[int] = set()
        used_faces: set[int] = set()
        for _, i, j in sorted(pairs):
            if i not in used_tracks and j not in used_faces:
                used_tracks.add(i)
                used_faces.add(j)
                self._see(alive[i], index, time, faces[j])
        for j, face in enumerate(faces):
            if j not in used_faces:
                track = _Track(self._next_track, index, index == self._shot_start)
                self._next_track += 1
                self._tracks.append(track)
                self._see(track, index, time, face)

    def _see(self, track: _Track, index: int, time: float, face: Face) -> None:
        values = np.concatenate([face.box, face.landmarks.ravel()]).astype(np.float64)
        track.seen.append(_Seen(index, time, values, face.score))
        track.count += 1

    def _emit(self) -> list[TrackedFace]:
        index, time = self._times.popleft()
        found = []
        enough = min(self.shortest, self._next_frame - self._shot_start)  # a shot may be shorter
        for track in self._tracks:
            if track.first <= index <= track.seen[-1].index and track.count >= enough:
                near = [seen for seen in track.seen if abs(seen.index - index) <= self.window]
                found.append(TrackedFace(track.number, self._smooth(near, index, time), self._fade(track, index)))
        for track in self._tracks:
            while len(track.seen) > 1 and track.seen[0].index < index + 1 - self.window:
                track.seen.popleft()
        self._tracks = [
            track
            for track in self._tracks
            if track.seen[-1].index > index or not self._is_over(track, self._next_frame)
        ]
        return found

    def _smooth(self, seen: Sequence[_Seen], index: int, time: float) -> Face:
        """The value at `time` of the weighted straight line through what was seen around it."""
        times = np.array([one.time - time for one in seen])
        values = np.stack([one.values for one in seen])
        weights = np.exp(-0.5 * (np.array([one.index - index for one in seen]) / self.spread) ** 2)
        weights /= weights.sum()
        mean_time, mean = weights @ times, weights @ values
        centred = times - mean_time
        variance = weights @ centred**2
        smooth = mean if variance <= 0 else mean - mean_time * ((weights * centred) @ values) / variance
        score = min(seen, key=lambda one: abs(one.index - index)).score
        return Face(smooth[:4].astype(np.float32), smooth[4:].reshape(5, 2).astype(np.float32), score)

    def _fade(self, track: _Track, index: int) -> float:
        since = FADE + 1 if track.from_start else index - track.first + 1
        gone = self._is_over(track, self._next_frame)
        left = track.seen[-1].index - index + 1 if gone else FADE + 1
        return min(1.0, since / (FADE + 1), left / (FADE + 1))


def look_near(image: np.ndarray, boxes: Sequence[np.ndarray], detect: Detect) -> list[Face]:
    """Looks for known faces only around where they were, on the frame's own pixels.

    Args:
        image: (H, W, 3) BGR.
        boxes: (4,) x, y, width, height, of the frame before.
        detect: the detector.

    Returns:
        At most one face per box, in pixels of `image`. A face too large for this is looked for in the whole picture.
    """
    found: list[Face] = []
    whole: list[Face] | None = None
    for box in boxes:
        side = next((side for side in SIDES if side >= 2 * float(box[2:].max())), None)
        if side is None:
            whole = detect(image) if whole is None else whole
            faces = whole
        else:
            faces = _detect_in_square(image, box, side, detect)
        if not faces:
            continue
        best = max(faces, key=lambda face: float(intersection_over_union(face.box, box[None])[0]))
        overlap = float(intersection_over_union(best.box, box[None])[0])
        known = [float(intersection_over_union(best.box, other.box[None])[0]) for other in found]
        if overlap > 0.2 and max(known, default=0.0) < 0.3:
            found.append(best)
    return found


def _detect_in_square(image: np.ndarray, box: np.ndarray, side: int, detect: Detect) -> list[Face]:
    height, width = image.shape[:2]
    middle = box[:2] + box[2:] / 2
    x, y = (int(np.clip(round(m - side / 2), 0, max(0, n - side))) for m, n in zip(middle.tolist(), (width, height)))
    part = np.ascontiguousarray(image[y : y + side, x : x + side])
    corner = np.array([x, y], np.float32)
    return [
        Face(np.concatenate([face.box[:2] + corner, face.box[2:]]), face.landmarks + corner, face.score)
        for face in detect(part)
    ]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (36, 64, 3) float32 in [0, 255], for `is_cut`."""
    small = cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small / 257 if image.dtype == np.uint16 else small


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether another shot begins between two frames, given as thumbnails.

    Most pixels differ a lot, or they differ and so do the colours as a whole: a pan moves colours, it does not make new
    ones.
    """
    difference = float(np.abs(before - after).mean())
    if difference > 45:
        return True
    if difference < 10:
        return False
    shared = np.minimum(_colours(before), _colours(after)).sum()
    return bool(shared < 0.65)


def _colours(picture: np.ndarray) -> np.ndarray:
    """Shares of 6 x 6 x 6 colours, blurred a little so that a shade lighter is not another colour."""
    counts = np.histogramdd(picture.reshape(-1, 3), bins=(6, 6, 6), range=((0, 256),) * 3)[0]
    smooth = counts.astype(np.float32)
    for axis in range(3):
        padded = np.moveaxis(np.pad(smooth, [(1, 1) if i == axis else (0, 0) for i in range(3)]), axis, 0)
        smooth = np.moveaxis(0.5 * padded[1:-1] + 0.25 * (padded[:-2] + padded[2:]), 0, axis)
    return smooth / smooth.sum()
