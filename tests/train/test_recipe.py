import pytest
from pydantic import ValidationError

from ppgan_fr.train.recipe import Optim, Schedule, lr_at, lr_factor


def test_the_step_after_a_milestone_is_the_first_with_the_lower_rate():
    schedule = Schedule(milestones=(2, 4), factor=0.5)
    assert [lr_factor(schedule, step) for step in range(1, 7)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_line_falls_to_zero_and_moves_only_once_per_epoch():
    schedule = Schedule(decay_from=4, decay_to=8, every=2)
    assert [lr_factor(schedule, step) for step in range(1, 11)] == [1, 1, 1, 1, 1, 1, 0.5, 0.5, 0, 0]


def test_a_cosine_is_halfway_down_in_the_middle():
    schedule = Schedule(decay_from=0, decay_to=10, decay="cosine", final=0.1)
    assert lr_factor(schedule, 6) == pytest.approx(0.55)
    assert lr_factor(schedule, 100) == pytest.approx(0.1)


def test_a_warm_up_starts_above_zero():
    assert lr_at(Optim(lr=1.0), Schedule(warmup=4), 1) == 0.25
    assert lr_at(Optim(lr=1.0), Schedule(warmup=4), 9) == 1.0


def test_a_decay_with_one_end_is_refused():
    with pytest.raises(ValidationError, match="belong together"):
        Schedule(decay_from=3)
