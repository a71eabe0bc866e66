"""The soak, cut short: a minute of `tidegate up` under everything at once, and judged to the token.

`SEEDS=1,2,3` runs more. The half hour is `make test-long ARGS="--part soak"`.
"""

import os
from pathlib import Path

import pytest
import soak


@pytest.mark.parametrize("seed", [int(one) for one in os.environ.get("SEEDS", "1").split(",")])
def test_nothing_is_lost_whatever_happens(tmp_path: Path, seed: int) -> None:
    with soak.played(tmp_path, soak.short(seed), print) as report:
        print(soak.table(report))
        assert report.wrong == []
        assert report.fates["answered"] > report.fates.total() / 3
        assert report.cold_starts > 5
        assert report.actions["kill-router"]
        assert report.actions["kill-billing"]
        assert [one.after for one in report.quiets] == ["warm", "storm", "calm"]
