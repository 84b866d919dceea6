"""What the examination lists, and that it reads the packages from the project's own metadata."""

from importlib.metadata import PackageNotFoundError, metadata

import pytest
from rich.console import Console
from typer.testing import CliRunner

from distar_core import extras
from distar_core.cli import terminal
from distar_core.cli.doctor import examine
from distar_core.cli.main import app
from distar_core.errors import MissingPackagesError


def required(monkeypatch, *lines):
    monkeypatch.setattr(extras, "requires", lambda _: ["torch>=2", *lines])


def test_doctor_lists_what_is_there():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for word in ("torch", "matplotlib", "free disk", "accelerator"):
        assert word in result.output


@pytest.mark.parametrize(
    ("line", "fatal", "verdict", "install"),
    [
        ('no-such-package>=1; extra == "models"', False, "not needed yet", '-e ".[models]"'),
        ('no-such-package>=1; extra == "notebooks"', False, "not needed yet", '-e ".[notebooks]"'),
        ("no-such-package>=1", True, "needed", "-e ."),
    ],
)
def test_a_missing_package_names_its_command_and_is_fatal_outside_of_extras(monkeypatch, line, fatal, verdict, install):
    required(monkeypatch, line)
    monkeypatch.setattr(terminal, "console", Console(width=80))
    (finding,) = [one for one in examine() if one.what == "no-such-package"]
    assert (finding.fatal, finding.verdict) == (fatal, verdict)
    assert finding.remedy.endswith(f" -m pip install {install}")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == int(fatal)
    assert finding.remedy in result.output.splitlines()


def test_a_package_that_is_too_old_is_told_and_one_for_another_system_is_not_asked_for(monkeypatch):
    required(monkeypatch, "numpy>=999", 'no-such-package; sys_platform == "amiga"', "pytest; extra == 'dev'")
    findings = {one.what: one for one in examine()}
    assert findings["torch"].verdict == "fine"
    assert ">=999" in findings["numpy"].verdict
    assert not findings["numpy"].fatal
    assert "no-such-package" not in findings
    assert "pytest" not in findings


def test_every_extra_for_users_has_a_purpose_and_packages():
    provided = set(metadata("distar-core").get_all("Provides-Extra")) - {"dev", "site"}
    assert provided == set(extras.PURPOSES)
    for extra in ("", *provided):
        assert extras.requirements(extra)
    assert {"torch", "typer"} <= {one.name for one in extras.requirements()}
    assert "diffusers" in {one.name for one in extras.requirements("models")}
    assert not {one.name for one in extras.requirements()} & {one.name for one in extras.requirements("models")}


def test_a_clone_that_was_never_installed_says_so(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", nothing)
    with pytest.raises(MissingPackagesError, match="pip install"):
        extras.require("models")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
