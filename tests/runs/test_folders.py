"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from distar_core.runs.folders import replacing


def test_new_contents_take_the_place_of_the_old_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("old")
    with replacing(path) as part, open(part, "w") as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old", "until the block ends"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_exception_the_old_file_is_there_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_text("ne")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_at_once_take_a_part_each(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with replacing(path, tmp_path / "a") as first, replacing(path, tmp_path / "b") as second:
        first.write_text("from a")
        second.write_text("from b")
    assert path.read_text() == "from a", "the outer block ends last"
    assert list(tmp_path.iterdir()) == [path]
