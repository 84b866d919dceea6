"""distar rewards."""

from typer.testing import CliRunner

from distar_core.cli.main import app
from distar_core.rewards.published import PUBLISHED


def test_every_published_reward_is_listed_with_what_one_has_to_know():
    result = CliRunner().invoke(app, ["rewards"])
    assert result.exit_code == 0
    for reward in PUBLISHED.values():
        for told in (reward.name, reward.measures, reward.scale, reward.licence, reward.source, reward.gradient):
            assert told in result.output
        assert f"{reward.gigabytes:.1f} GB" in result.output
