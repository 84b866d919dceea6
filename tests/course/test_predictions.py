"""Predictions stay in one local file and are shown beside the result."""

import pytest

from distar_core.course import predict, reveal
from distar_core.course.predictions import stored


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTAR_FOLDER", str(tmp_path / "mine"))
    return tmp_path / "mine"


def test_a_prediction_is_stored_and_shown_beside_the_result(folder, capsys):
    predict("03.1", " b ")
    predict("03.2", "a")
    predict("03.1", "c")
    assert stored() == {"03.1": "c", "03.2": "a"}
    assert [path.name for path in folder.iterdir()] == ["predictions.json"]
    capsys.readouterr()
    reveal("03.1", "spread 0.09")
    printed = capsys.readouterr().out
    assert "you predicted c" in printed
    assert "spread 0.09" in printed


@pytest.mark.parametrize("blank", ["?", "", "  "])
def test_no_prediction_is_said_and_blocks_nothing(blank, folder, capsys):
    predict("03.1", blank)
    assert "nothing predicted yet" in capsys.readouterr().out
    assert not folder.exists()
    reveal("03.1", "c")
    assert "you predicted nothing" in capsys.readouterr().out


@pytest.mark.parametrize("damaged", ["{", "3", "[1]"])
def test_a_damaged_file_is_replaced_by_the_next_prediction(damaged, folder):
    folder.mkdir()
    (folder / "predictions.json").write_text(damaged)
    assert stored() == {}
    predict("03.1", "b")
    assert stored() == {"03.1": "b"}
