"""Tracks: the same face from frame to frame, steadier than the detector sees it."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr.face.align import FFHQ_512
from ppgan_fr.face.tracks import FADE, GAP, WINDOW, Tracks, is_cut, look_near, thumbnail
from ppgan_fr.face.types import Face


def face(x, y=100.0, size=100.0, noise=0.0, rng=None):
    points = FFHQ_512.array() / 512 * size * 2 + (x - size, y - size)
    if rng is not None:
        points = points + rng.normal(0, noise, points.shape)
    box = np.array([x - size / 2, y - size / 2, size, size], np.float32)
    return Face(box, points.astype(np.float32), 0.9)


def follow(frames, cuts=(), times=None):
    """Tracked faces of every frame."""
    tracks, answers = Tracks(), []
    for i, faces in enumerate(frames):
        answers += tracks.push(float(i) if times is None else times[i], faces, i in cuts)
    return answers + tracks.flush()


def test_every_frame_gets_an_answer_a_window_later():
    tracks = Tracks()
    given = [len(tracks.push(float(i), [face(100 + i)])) for i in range(20)]
    assert given == [0] * WINDOW + [1] * (20 - WINDOW)
    assert len(tracks.flush()) == WINDOW
    assert tracks.flush() == []


def test_trembling_landmarks_become_steady():
    rng = np.random.default_rng(0)
    true = [face(100 + 2 * i) for i in range(60)]
    answers = follow([[face(100 + 2 * i, noise=1.0, rng=rng)] for i in range(60)])
    assert {one.track for (one,) in answers} == {0}
    points = np.stack([one.face.landmarks for (one,) in answers])
    error = points - np.stack([one.landmarks for one in true])
    assert error.std() < 0.5
    second = points[2:] - 2 * points[1:-1] + points[:-2]
    assert second.std() < 0.25  # of the detector: 2.4


def test_steady_motion_is_followed_without_lag_also_in_uneven_time():
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.uniform(0.5, 2.0, 40))
    answers = follow([[face(50 + 5 * t)] for t in times], times=list(times))
    for t, (one,) in zip(times, answers):
        np.testing.assert_allclose(one.face.landmarks, face(50 + 5 * t).landmarks, atol=0.05)


def test_two_faces_that_pass_each_other_keep_their_numbers():
    answers = follow([[face(100 + 6 * i, 100), face(340 - 6 * i, 180)] for i in range(40)])
    right = [one for frame in answers for one in frame if one.track == 0]
    assert len(right) == 40
    assert all(abs(one.face.box[1] - 50) < 1 for one in right)


def test_a_face_that_is_missed_for_a_moment_stays():
    frames = [[] if 10 <= i < 10 + GAP else [face(100 + 3 * i)] for i in range(40)]
    answers = follow(frames)
    assert all(len(found) == 1 and found[0].track == 0 for found in answers)
    np.testing.assert_allclose(answers[12][0].face.landmarks, face(136).landmarks, atol=0.1)


def test_a_face_that_is_gone_longer_is_another_and_both_are_faded():
    frames = [[] if 15 <= i < 24 else [face(100)] for i in range(40)]
    answers = follow(frames)
    assert [len(found) for found in answers] == [1] * 15 + [0] * 9 + [1] * 16
    assert answers[0][0].fade == answers[-1][0].fade == 1  # the shot begins and ends there, not the face
    assert [found[0].fade for found in answers[15 - FADE : 15]] == [0.75, 0.5, 0.25]
    assert [found[0].fade for found in answers[24 : 24 + FADE]] == [0.25, 0.5, 0.75]
    assert answers[30][0].track != answers[0][0].track


def test_what_is_seen_only_once_is_no_face():
    frames = [[face(100), face(400)] if i == 10 else [face(100)] for i in range(30)]
    assert all(len(found) == 1 for found in follow(frames))


def test_a_shot_of_two_frames_has_its_face():
    assert [len(found) for found in follow([[face(100)], [face(100)]])] == [1, 1]


def test_nothing_is_smoothed_across_a_cut():
    frames = [[face(100 if i < 20 else 130)] for i in range(40)]
    answers = follow(frames, cuts={20})
    assert answers[19][0].track != answers[20][0].track
    np.testing.assert_allclose(answers[19][0].face.landmarks, face(100).landmarks, atol=0.01)
    np.testing.assert_allclose(answers[20][0].face.landmarks, face(130).landmarks, atol=0.01)
    assert answers[20][0].fade == 1


def test_what_comes_after_a_while_does_not_depend_on_what_came_long_before():
    rng = np.random.default_rng(2)
    frames = [[face(100 + i, noise=1.0, rng=rng)] for i in range(80)]
    whole, late = follow(frames), follow(frames[30:])
    for a, b in zip(whole[50:], late[20:]):
        assert np.array_equal(a[0].face.landmarks, b[0].face.landmarks)


def test_a_known_face_is_looked_for_only_around_it():
    seen = []

    def detect(image):
        seen.append(image.shape[:2])
        rows, columns = np.nonzero(image[..., 0] > 200)
        return [face(columns.mean(), rows.mean(), 60)] if len(rows) else []

    image = np.zeros((720, 1280, 3), np.uint8)
    image[300:303, 900:903] = 255
    (found,) = look_near(image, [face(890, 310, 60).box], detect)
    assert seen == [(160, 160)]
    np.testing.assert_allclose(found.box[:2] + found.box[2:] / 2, (901, 301), atol=0.01)
    np.testing.assert_allclose(found.landmarks, face(901, 301, 60).landmarks, atol=0.01)
    assert look_near(image, [face(200, 200, 60).box], detect) == []
    assert len(look_near(image, [face(890, 310, 60).box, face(905, 300, 60).box], detect)) == 1
    look_near(image, [np.array([100, 0, 700, 700], np.float32)], detect)
    assert seen[-1] == (720, 1280)


def scene(seed, shift=0, brightness=0):
    """A texture of one colour, seen through a window that can be moved over it."""
    rng = np.random.default_rng(seed)
    colour = rng.uniform(40, 200, 3)
    blocks = np.kron(rng.uniform(-40, 40, (12, 30, 3)), np.ones((20, 20, 1)))
    return np.clip(blocks[:, shift : shift + 400] + colour + brightness, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_another_scene_is_a_cut_and_a_pan_or_a_lamp_is_not(seed):
    assert is_cut(thumbnail(scene(seed)), thumbnail(scene(seed + 100)))
    assert not is_cut(thumbnail(scene(seed)), thumbnail(scene(seed)))
    assert not is_cut(thumbnail(scene(seed)), thumbnail(scene(seed, shift=60)))
    assert not is_cut(thumbnail(scene(seed)), thumbnail(scene(seed, brightness=12)))
    deep = thumbnail(scene(seed).astype(np.uint16) * 257)
    np.testing.assert_allclose(deep, thumbnail(scene(seed)), atol=1)
