"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

from distar_core.runs.folders import at_work, claim, nothing_left, replacing


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


def fail_in(folder, *, writes=()):
    """Claim and lock a folder, write files there and fail; whether the folder is still there."""

    def work():
        claim(folder, "run")
        with at_work(folder):
            pass
        for name in writes:
            (folder / name).touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), nothing_left(folder):
        work()
    return folder.exists()


def test_what_fails_at_once_leaves_no_new_folder(tmp_path):
    assert not fail_in(tmp_path / "new")
    (tmp_path / "there").mkdir()
    assert fail_in(tmp_path / "there"), "it was there before"
    assert fail_in(tmp_path / "written", writes=["log.csv"]), "something is in it"
    with nothing_left(tmp_path / "kept"):
        claim(tmp_path / "kept", "run")
    assert (tmp_path / "kept").exists()
