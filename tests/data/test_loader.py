"""Which pictures a step sees, and what happens to files that cannot be read."""

import itertools

import numpy as np
import pytest

from ppgan_fr.data.loader import DataError, Loader, Place, generator, indices


class Numbers:
    """Pictures that are their own number and one random number; `bad` ones cannot be read."""

    def __init__(self, count=10, bad=()):
        self.count, self.bad = count, set(bad)

    def __len__(self):
        return self.count

    def name(self, index):
        return f"{index}.png"

    def sample(self, index, rng):
        if index in self.bad:
            raise DataError(f"{index}.png: not a picture")
        return {"index": np.array(index), "drawn": np.array(rng.uniform())}


def take(loader, count, first=0):
    return list(itertools.islice(loader.batches(first), count))


def test_every_picture_is_seen_once_per_epoch():
    places = [place for step in range(5) for place in indices(3, step, 4, 10)]
    for epoch in (0, 1):
        assert sorted(place.index for place in places if place.epoch == epoch) == list(range(10))


def test_two_epochs_have_different_orders():
    first, second = ([p.index for p in indices(0, epoch, 100, 100)] for epoch in (0, 1))
    assert first != second


def test_processes_share_a_batch_without_overlap():
    whole = indices(1, 7, 6, 10)
    assert indices(1, 7, 6, 10, 0, 2) == whole[::2]
    assert indices(1, 7, 6, 10, 1, 2) == whole[1::2]


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(DataError, match="3 pictures cannot be divided among 2 processes"):
        indices(0, 0, 3, 10, 0, 2)


def test_a_sample_depends_on_seed_epoch_and_index_only():
    first = generator(1, Place(2, 3)).uniform(size=4)
    np.testing.assert_array_equal(first, generator(1, Place(2, 3)).uniform(size=4))
    for seed, place in ((2, Place(2, 3)), (1, Place(3, 3)), (1, Place(2, 4))):
        assert (first != generator(seed, place).uniform(size=4)).all()


@pytest.mark.parametrize("workers", [0, 3])
def test_a_resumed_loader_continues_where_the_first_was(workers):
    whole = take(Loader(Numbers(), seed=0, batch_size=4), 6)
    rest = take(Loader(Numbers(), seed=0, batch_size=4, workers=workers), 3, first=3)
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one["index"], other["index"])
        np.testing.assert_array_equal(one["drawn"], other["drawn"])


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_replaced_and_counted_once(workers):
    loader = Loader(Numbers(bad=(4,)), seed=0, batch_size=5, workers=workers)
    batches = take(loader, 8)
    assert all(4 not in batch["index"] for batch in batches)
    assert list(loader.bad) == ["4.png"]


def test_too_many_bad_files_end_the_run_with_one_message():
    loader = Loader(Numbers(bad=range(5)), seed=0, batch_size=10, max_bad_fraction=0.2)
    with pytest.raises(DataError, match=r"3 of 10 files cannot be used, more than data\.max_bad_fraction \(0\.2\)"):
        take(loader, 1)


def test_a_data_set_without_a_good_file_ends_instead_of_hanging():
    loader = Loader(Numbers(3, bad=range(3)), seed=0, batch_size=2, max_bad_fraction=1.0)
    with pytest.raises(DataError, match="none of the 3 files"):
        take(loader, 1)
