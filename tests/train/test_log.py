import re

from ppgan_fr.train import log


def make_line(**terms):
    costs = {"avg_reader_cost": 0.00123, "avg_batch_cost": 0.51234, "avg_samples": 3.0, "avg_ips": 5.8555, "eta": 754}
    return log.line(1, 10, 100, 2e-3, 12.34567, terms, costs)


def test_the_line_reads_as_the_tools_around_reproductions_expect():
    text = make_line(**{"g/pixel": 0.0831})
    assert text == (
        "[TRAIN] epoch: 1, iter: 10/100, lr: 0.00200000, loss: 12.34567, g/pixel: 0.08310, "
        "avg_reader_cost: 0.00123 sec, avg_batch_cost: 0.51234 sec, avg_samples: 3.0, "
        "avg_ips: 5.85550 images/sec, eta: 0:12:34"
    )


def test_there_is_one_loss_and_one_speed_in_a_line():
    text = make_line(**{"g/pixel": 1e-9, "d/r1": 1e9})
    assert len(re.findall(r"loss: (\d+\.\d+),", text)) == 1
    assert len(re.findall(r"ips: (\d+\.\d+)", text)) == 1
    assert "e-" not in text.split("loss:")[1].split("avg_")[0]


def test_visualdl_takes_the_scalars(tmp_path):
    journal = log.Journal(tmp_path, visualdl=False)
    journal.record(3, {"g/pixel": 0.5})
    journal.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 3, "g/pixel": 0.5}\n'


def test_a_missing_visualdl_says_what_to_install(tmp_path, monkeypatch):
    import sys

    import pytest

    monkeypatch.setitem(sys.modules, "visualdl", None)
    with pytest.raises(log.VisualDlMissingError, match=r"pip install -r requirements-visualdl\.txt"):
        log.Journal(tmp_path, visualdl=True)
