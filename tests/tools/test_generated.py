"""Generated documents are what their sources give today: they are generated anew and compared with what is here."""

import pytest

from tools import generated


@pytest.mark.slow
def test_every_generated_document_is_up_to_date():
    stale = [path for path, text in generated.documents().items() if path.read_text("utf-8") != text]
    assert stale == [], "run make generated"


def test_only_documents_that_differ_are_written(tmp_path, monkeypatch, capsys):
    kept, stale = tmp_path / "kept.md", tmp_path / "stale.md"
    kept.write_text("as it should be")
    stale.write_text("of yesterday")
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    monkeypatch.setattr(generated, "documents", lambda: {kept: "as it should be", stale: "of today"})
    generated.main()
    assert stale.read_text() == "of today"
    assert kept.stat().st_mtime_ns == before
    assert capsys.readouterr().out.split() == ["stale.md"]
