"""The tables behind `--fidelity auto` and `--identity`: labels, fitting, thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from ppgan_fr import calibrate
from ppgan_fr.calibrate import CalibrateError, Results
from ppgan_fr.face import strength
from tests.face.pictures import face


def test_the_amounts_of_a_damage_are_the_labels_and_sharp_faces_are_among_them():
    rng = np.random.default_rng(0)
    sharp = 0
    for _ in range(12):
        picture, whole, known = calibrate.damage(face(), rng)
        assert list(known) == list(strength.LABELS[:4])
        assert picture.shape == whole.shape == (512, 512, 3)
        if known == {"blur": 0.0, "noise": 0.0, "jpeg": 100.0, "scale": 1.0}:
            sharp += 1
            assert np.array_equal(picture, whole)
    assert 0 < sharp < 8


def test_the_same_seed_damages_the_same_way():
    one, two = (calibrate.damage(face(), np.random.default_rng(5))[0] for _ in range(2))
    assert np.array_equal(one, two)


def test_the_network_learns_what_a_statistic_says():
    rng = np.random.default_rng(0)
    labels = np.stack(
        [
            rng.uniform(0, 8, 600),
            rng.uniform(0, 20, 600),
            rng.uniform(40, 100, 600),
            rng.uniform(1, 8, 600),
            rng.uniform(20, 45, 600),
            rng.uniform(0, 1, 600),
        ],
        -1,
    )
    seen = strength.to_targets(labels) @ rng.normal(size=(6, 20)) + rng.normal(0, 0.01, (600, 20))
    weights = calibrate.fit_network(seen[:500], labels[:500], 0, steps=1500)
    estimates = strength.predict(seen[500:], weights)
    for column in range(6):
        assert np.corrcoef(estimates[:, column], labels[500:, column])[0, 1] > 0.9
    assert "| psnr | 0.9" in calibrate.worth(estimates, labels[500:])


def people(count, likeness, rng):
    """Embeddings of inputs and results: the same person's are alike by about `likeness`."""
    base = rng.normal(size=(count, 128))
    noise = rng.normal(size=(count, 128)) * (likeness[:, None] ** -2 - 1) ** 0.5
    vectors = [value / np.linalg.norm(value, axis=1, keepdims=True) for value in (base, base + noise)]
    return Results(np.arange(count).astype(str), likeness, *vectors)


def test_thresholds_refuse_strangers_and_rise_with_what_can_be_seen():
    rng = np.random.default_rng(0)
    table = calibrate.thresholds(people(300, rng.uniform(0.3, 0.95, 300), rng))
    values = [row["threshold"] for row in table]
    assert values == sorted(values)
    assert all(row["swapped_refused"] >= 0.96 for row in table)
    assert table[-1]["honest_passed"] >= 0.97
    other = calibrate.judged(people(300, rng.uniform(0.3, 0.95, 300), rng), table)
    assert sum(row["pictures"] for row in other) == 300
    assert all(row["swapped_refused"] >= 0.9 for row in other)


def test_two_pictures_of_one_person_are_no_swapped_pair():
    same = np.array([calibrate.person(f"002_0{i}.jpg", None) for i in (3, 8)])
    vectors = np.eye(128)[:2]
    assert np.isnan(Results(same, np.ones(2), vectors, vectors).swapped()).all()
    assert calibrate.person("002_03.jpg", None) != calibrate.person("002f.jpg", None)


def test_faces_to_learn_from_and_to_test_on_are_told_apart_by_a_list(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(b"x")
    names = [
        [name for name, _ in calibrate.faces_of([str(tmp_path)], 0, **how)]
        for how in ({"only": {"b.png"}}, {"without": {"b.png"}})
    ]
    assert names == [["b.png"], ["a.png", "c.png"]]


def test_a_list_that_is_not_there_is_one_line():
    with pytest.raises(CalibrateError, match="nowhere.txt"):
        calibrate._names("nowhere.txt")
