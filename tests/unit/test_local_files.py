"""What local mode keeps on disk, and what it finds there after a crash."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate_billing.links import EngineCounters
from tidegate_operator.local import datadir, leftovers, resources, sockets
from tidegate_operator.local.epochs import Epochs

LOST = EngineCounters(
    model="m", deployment="d/m", epoch="m-1", prompt=0, generated=0, state="lost", verified=False
)


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    first = datadir.lock(tmp_path / "data")
    with pytest.raises(datadir.DataInUseError, match="DATA"):
        datadir.lock(tmp_path / "data")
    os.close(first)
    os.close(datadir.lock(tmp_path / "data"))


def test_the_data_directory_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(mode=0o755)
    for name in ("old", "new"):
        os.close(datadir.lock(tmp_path / name))
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    first = datadir.read_secrets(tmp_path)
    assert datadir.read_secrets(tmp_path) == first
    assert len(set(first)) == 3
    for name in ("internal-token", "key-pepper", "admin-token"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_taken_port_is_named_with_its_setting() -> None:
    with sockets.listen("127.0.0.1", 0, "PORT") as bound:
        port = bound.getsockname()[1]
        with pytest.raises(sockets.PortInUseError, match=rf"{port}.*ADMIN_PORT"):
            sockets.listen("127.0.0.1", port, "ADMIN_PORT")


def test_a_host_that_is_not_ours_is_named() -> None:
    with pytest.raises(sockets.PortInUseError, match=r"192\.0\.2\.1"):
        sockets.listen("192.0.2.1", 0, "PORT")


def test_an_engine_port_can_be_bound_and_is_not_ephemeral() -> None:
    port = sockets.engine_port()
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", port))
    assert port < 32768


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_url_is_one_a_local_client_can_use(host: str) -> None:
    with sockets.listen(host, 0, "PORT") as bound:
        assert sockets.url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_leftovers_are_ended_and_others_are_not(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import signal; signal.pause()"]
    mark = {leftovers.MARK: f"{tmp_path.resolve()}:1"}
    marked = subprocess.Popen(sleeper, env=os.environ | mark, start_new_session=True)
    noted = subprocess.Popen(sleeper, start_new_session=True)
    reused = subprocess.Popen(sleeper, start_new_session=True)
    try:
        leftovers.record(tmp_path, noted.pid)
        with (tmp_path / leftovers.LIST).open("a") as file:
            file.write(f"{reused.pid} 12345\nbroken li")  # an old process of that number
        assert leftovers.clean(tmp_path) == 2
        assert marked.wait(10) == -signal.SIGKILL
        assert noted.wait(10) == -signal.SIGKILL
        assert reused.poll() is None
        assert not (tmp_path / leftovers.LIST).exists()
    finally:
        for one in (marked, noted, reused):
            one.kill()
            one.wait()


def test_the_age_of_a_deployment_survives_a_restart(tmp_path: Path) -> None:
    assert resources.first_seen(tmp_path, ["d/a"], 100.0) == {"d/a": 100.0}
    again = resources.first_seen(tmp_path, ["d/b", "d/a"], 200.0)
    assert again == {"d/b": 200.0, "d/a": 100.0}
    (tmp_path / resources.SEEN).write_text("broken")
    assert resources.first_seen(tmp_path, ["d/a"], 300.0) == {"d/a": 300.0}


def test_an_epoch_is_owed_until_it_is_paid(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.write_text('{"attempt_id":"a","prompt_tokens":3,"generated_tokens":4}\n')
    epochs = Epochs(tmp_path, pytest.fail)
    epochs.begin(LOST, truth)
    (owed,) = Epochs(tmp_path, pytest.fail).owed()
    assert (owed.prompt, owed.generated, owed.state, owed.verified) == (3, 4, "lost", True)
    final = EngineCounters(
        model="m", deployment="d/m", epoch="m-1", prompt=9, generated=9, state="final"
    )
    epochs.close(final)
    assert Epochs(tmp_path, pytest.fail).owed() == [final]
    epochs.paid("m-1")
    assert Epochs(tmp_path, pytest.fail).owed() == []


def test_an_epoch_without_truth_is_owed_unverified(tmp_path: Path) -> None:
    Epochs(tmp_path, pytest.fail).begin(LOST, None)
    assert Epochs(tmp_path, pytest.fail).owed() == [LOST]


def test_a_disk_that_is_full_stops_nobody(tmp_path: Path) -> None:
    """Called where an engine starts and ends: what cannot be noted is told, and the rest goes on."""
    told: list[str] = []
    epochs = Epochs(tmp_path, told.append)
    (tmp_path / "epochs").rmdir()
    epochs.begin(LOST, None)
    epochs.close(LOST)
    epochs.paid(LOST.epoch)
    assert [one.partition(": ")[0] for one in told] == [f"{tmp_path}/epochs/m-1.json"] * 2
    leftovers.record(tmp_path / "gone", os.getpid())


LOGS = """
from tidegate_billing import process
import logging, structlog
process.log_to_stderr("info")
structlog.get_logger().warning("lost")
logging.getLogger("uvicorn").error("lost, too")
print("goes on")
"""


def test_a_log_that_cannot_be_written_ends_nobody() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-Ic", LOGS],
            stdout=subprocess.PIPE, stderr=full, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.stdout == "goes on\n"
