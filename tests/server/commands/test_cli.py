"""`palate server`: what it prints where and how it ends, without a SuperLink."""

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from server_fakes import Clock, FakeDevices, settings
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.server.ledger.booking import Ledger
from palate.server.processes import deployed
from palate.server.processes.deployed import Address
from palate.server.rounds.run import ServerFolder, federate
from palate.server.settings import RunSettings
from palate.server.strategy import average
from palate.shared.accounting import Budget, Cost
from palate.shared.errors import OptionError
from palate.shared.sum_noise import SumNoise


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's folder, named by the environment."""
    monkeypatch.setenv("PALATE_SERVER_HOME", str(tmp_path / "server"))
    monkeypatch.setenv("PALATE_RELEASE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "server"


@pytest.fixture
def trained(home: Path) -> Path:
    """A folder on which two rounds were run."""
    federate(
        FakeDevices(odd={102: lambda task, device: b""}), ServerFolder(home), settings(rounds=2),
        average=average, run="r1", patience=Clock().patience(),
    )  # fmt: skip
    return home


def palate(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(app, ["server", *arguments])
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def told(*arguments: str) -> Any:
    return json.loads(palate(*arguments, "--json").stdout)


@pytest.mark.parametrize(
    "command",
    [
        "start",
        "admit",
        "certify",
        "run",
        "status",
        "key",
        "privacy",
        "release",
        "prepare",
        "sign",
        "take",
        "curves",
        "stop",
    ],
)
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert f"palate server {command}" in palate(command, "--help").stdout


def test_the_status_of_nothing_makes_nothing(home: Path) -> None:
    found = told("status")
    assert (found["running"], found["round"], found["releases"], found["last"]) == (False, 0, [], None)
    assert not home.exists()


def test_the_status_says_where_the_federation_stands(trained: Path) -> None:
    found = told("status")
    assert found["round"] == 2
    assert found["last"]["refused"] == {"empty": 1}
    assert found["ended"] == {"run": "r1", "ended": "finished", "round": 2}
    shown = palate("status").stdout
    assert "no server runs here" in shown
    assert "round 2" in shown
    assert "2 updates of 3 devices (1 empty)" in shown


def test_curves_for_tensorboard_are_written_on_request(trained: Path, tmp_path: Path) -> None:
    place = tmp_path / "curves"
    assert told("curves", str(place)) == {"rounds": 2, "folder": str(place)}
    assert [path.name.startswith("events.out.tfevents") for path in place.iterdir()] == [True]
    refused = palate("curves", str(place), status=1)
    assert "name a new or an empty folder" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_release_is_made_and_listed(trained: Path) -> None:
    # What these devices answer is noise, and no release without its owner's word.
    refused = palate("release", status=1).stderr
    assert "this encoder is not released" in refused
    assert refused.count("\n") == 1
    card = told("release", "--anyway")
    assert (card["release"], card["round"], card["updates"]) == (1, 2, 4)
    assert Path(card["file"]).exists()
    assert told("status")["releases"] == [1]
    assert "is that of release 1" in palate("release", status=1).stderr


def test_without_training_there_is_no_release(home: Path) -> None:
    done = palate("release", status=1)
    assert done.stderr.startswith("palate: nothing was trained in ")
    assert done.stdout == ""


@pytest.mark.parametrize("answered", [True, False])
def test_a_run_in_which_nobody_was_used_does_not_ask_for_a_release(
    trained: Path, monkeypatch: pytest.MonkeyPatch, answered: bool
) -> None:
    def submit(folder: ServerFolder, wanted: RunSettings) -> str:
        silent = {} if answered else dict.fromkeys(range(100, 104), lambda task, device: b"")
        federate(
            FakeDevices(odd=silent), folder, settings(rounds=wanted.rounds),
            average=average, run="r2", patience=Clock().patience(),
        )  # fmt: skip
        return "r2"

    monkeypatch.setattr(deployed, "submit", submit)
    monkeypatch.setattr(deployed, "follow", lambda folder, number: iter([{"ended": "finished"}]))
    done = palate("run", "--rounds", "1", "--unmasked")
    if answered:
        assert "1 of 1 rounds moved the encoder; make a release" in done.stdout
    else:
        assert "there is nothing to release" in done.stdout
        assert "make a release" not in done.stdout
    assert json.loads(palate("run", "--rounds", "1", "--unmasked", "--json").stdout)["counted"] == int(
        answered
    )


def test_a_run_needs_a_server(home: Path) -> None:
    done = palate("run", status=1)
    assert "no server runs on" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_there_is_nothing_to_stop(home: Path) -> None:
    assert told("stop") == {"stopped": False}
    assert told("stop", "--run") == {"stopped": False}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rouns = 3", "unknown key 'rouns'"),
        ("strategy = 'feduhr'", "strategy is 'feduhr'"),
        ("[local]\nsteps = 0", "steps is 0"),
        ("a = = b", "is no TOML"),
    ],
)
def test_a_bad_settings_file_is_one_line(home: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    done = palate("run", "--settings", str(tmp_path / "settings.toml"), status=1)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_settings_file_that_is_not_there_is_one_line(home: Path, tmp_path: Path) -> None:
    assert "cannot be read" in palate("run", "--settings", str(tmp_path / "none.toml"), status=1).stderr


def test_others_can_reach_the_server_only_with_certificates(home: Path) -> None:
    assert "name a folder with ca.crt" in palate("start", "--host", "0.0.0.0", status=1).stderr  # noqa: S104


def test_certificates_that_are_missing_are_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("")
    assert "server.pem is missing there" in palate("start", "--tls", str(tmp_path), status=1).stderr


def test_a_port_that_is_taken_is_one_line(home: Path) -> None:
    pytest.importorskip("flwr")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = palate("start", "--port", str(taken.getsockname()[1]), status=1)
    assert "name another with --port" in done.stderr
    with pytest.raises(OptionError):
        Address(port=0)


def test_without_flower_the_line_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "palate[federate]" in palate("start", status=1).stderr


def test_certificates_that_are_none_are_one_line_before_anything_is_started(
    home: Path, tmp_path: Path
) -> None:
    for name in ("ca.crt", "server.pem", "server.key"):
        (tmp_path / name).write_text("nothing of the kind")
    done = palate("start", "--port", "21790", "--tls", str(tmp_path), status=1)
    assert "are no certificate and its private key" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not home.exists()


def test_no_secret_and_no_switch_of_ours_reaches_the_servers_process(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PYTHONSTARTUP", "/somewhere/else.py")
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    found = deployed.environment(ServerFolder(home))
    assert "correct horse" not in found.values()
    assert not {"PYTHONPATH", "PYTHONSTARTUP"} & set(found)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert found["FLWR_HOME"] == str(home / "flower")


def test_a_run_is_wanted_until_it_ended_or_was_dropped(home: Path) -> None:
    folder = ServerFolder(home)
    home.mkdir()
    note = {"settings": json.loads(settings(rounds=7).to_json()), "run": "r7"}
    assert deployed.wanted(folder) is None
    (home / "run.json").write_text(json.dumps({**note, "run": ""}))
    assert deployed.wanted(folder) == settings(rounds=7)
    (home / "run.json").write_text(json.dumps(note))
    (home / "ended.json").write_text(json.dumps({"run": "r6", "ended": "finished"}))
    assert deployed.wanted(folder) == settings(rounds=7)
    (home / "ended.json").write_text(json.dumps({"run": "r7", "ended": "finished"}))
    assert deployed.wanted(folder) is None
    (home / "ended.json").unlink()
    assert told("stop", "--run") == {"stopped": True}
    assert deployed.wanted(folder) is None


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """The settings of all runs that were submitted, which go no further."""
    seen: list[RunSettings] = []

    def submit(folder: ServerFolder, settings: RunSettings) -> str:
        seen.append(settings)
        return "7"

    monkeypatch.setattr("palate.server.processes.deployed.submit", submit)
    return seen


def vouched(home: Path) -> None:
    """Make a registrar, with keys for the first slots."""
    identity = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    palate("certify", identity, "--home", str(home))
    palate("slots", "--count", "2", "--home", str(home))


def test_others_are_counted_on_where_somebody_vouches_for_them(
    home: Path, submitted: list[RunSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    palate("run", "--detach")
    trusting = tmp_path / "trusting.toml"
    trusting.write_text("[privacy]\nhonest_share = 0.8\n")
    refused = palate("run", "--settings", str(trusting), "--detach", status=1).stderr
    assert "made-up devices add no noise" in refused
    assert refused.count("\n") == 1
    with monkeypatch.context() as patch:
        address = SimpleNamespace(admitted_only=True)
        patch.setattr(
            "palate.server.processes.deployed.running", lambda folder: SimpleNamespace(address=address)
        )
        admitted = palate("run", "--devices", "900", "--detach").stderr
        assert "a registrar, without which a device counts its own noise alone" in admitted
        palate("run", "--settings", str(trusting), "--detach")
    vouched(home)
    palate("run", "--detach")
    palate("run", "--settings", str(trusting), "--detach")
    shares = [one.privacy.counted_share for one in submitted if one.privacy is not None]
    assert shares == [0.0, 0.5, 0.8, 0.5, 0.8]


def test_a_run_without_the_registrars_keys_for_its_slots_is_not_submitted(
    home: Path, submitted: list[RunSettings]
) -> None:
    identity = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    palate("certify", identity, "--home", str(home))
    refused = palate("run", "--detach", status=1).stderr
    assert "no key of the registrar's for slot 1" in refused
    assert refused.count("\n") == 1
    palate("run", "--detach", "--unmasked")  # needs none
    assert [one.privacy for one in submitted] == [None]


def test_a_run_says_when_a_budget_is_used_up_before_it_ends(
    home: Path, submitted: list[RunSettings], tmp_path: Path
) -> None:
    vouched(home)
    file = tmp_path / "loud.toml"
    file.write_text("devices = 900\n[privacy]\nnoise_multiplier = 1.0\n")
    said = palate("run", "--rounds", "20", "--settings", str(file), "--detach").stderr
    assert "the budget that devices usually join with, epsilon 8, holds 2 of the 20 rounds" in said
    assert "the budget of this server, epsilon 8, holds about 2 rounds like these in all" in said
    quiet = palate("run", "--rounds", "39", "--devices", "900", "--detach").stderr
    assert "budget" not in quiet
    assert "holds 39 of the 40" in palate("run", "--rounds", "40", "--devices", "900", "--detach").stderr


def test_what_rounds_have_spent_is_shown_for_each_assumption(home: Path) -> None:
    ledger = Ledger(home / "privacy.jsonl", Budget(8.0, 4e-5))
    for number in (1, 2, 3):
        ledger.book(number, Cost(1.21, 0.09), cohort=900, noise=SumNoise(1.21, 1.71, 0.06), honest_share=0.5)
    shown = palate("privacy").stdout.splitlines()
    found = told("privacy")
    assert shown[0].startswith(f"3 rounds have spent epsilon {found['epsilon']:.3g} of 8 at delta 4e-05")
    assert shown[0].endswith("if 50% of the devices in a sum add their noise")
    assert shown[1] == f"if all devices add their noise: epsilon {found['if_all_add_epsilon']:.3g}"
    assert f"epsilon {found['unsampled_epsilon']:.3g} (nobody is drawn for more than 3 rounds" in shown[2]
    assert shown[3].startswith("if all other devices are silent, or made up: epsilon")
    assert [one["rounds"] for one in found["by_rounds"]] == [1, 2, 3]


def test_a_masked_run_wants_four_in_five_and_says_when_devices_will_refuse(
    home: Path, submitted: list[RunSettings]
) -> None:
    few = palate("run", "--devices", "4", "--detach")
    assert "devices refuse below 10 unless they joined with --least-devices" in few.stderr
    assert "times as long as one device's longest change" in few.stderr
    assert "nobody vouches for the devices" in few.stderr
    vouched(home)
    many = palate("run", "--devices", "900", "--detach")
    assert many.stderr == ""
    bare = palate("run", "--devices", "4", "--detach", "--unmasked")
    assert bare.stderr == ""
    assert [one.quorum for one in submitted] == [4, 720, 2]
    assert [one.privacy is None for one in submitted] == [False, False, True]


def test_a_run_with_a_noise_plan_says_how_many_devices_it_takes_and_refuses_what_cannot_be(
    home: Path, submitted: list[RunSettings], tmp_path: Path
) -> None:
    file = tmp_path / "planned.toml"
    text = (
        "devices = 900\n[privacy]\n{}\n[privacy.plan]\nsteps = 20\nseparation = 4\nnoise_multiplier = 2.0\n"
    )
    file.write_text(text.format("clip_rate = 0.0\nnoise_multiplier = 0.0"))
    shown = palate("run", "--settings", str(file), "--detach").stderr
    assert "rests until 4 sums later, so it takes about 2,880 devices" in shown
    assert "this server sees sums without any" in shown
    assert submitted[0].privacy is not None
    assert submitted[0].privacy.plan is not None
    for wrong, word in (
        ("clip_rate = 0.1", "clip_rate"),
        ("clip_rate = 0.0\nring_bits = 4", "4 bits are too few"),
    ):
        file.write_text(text.format(wrong))
        refused = palate("run", "--settings", str(file), "--detach", status=1).stderr
        assert word in refused
        assert refused.count("\n") == 1
    assert len(submitted) == 1


def test_what_a_noise_plan_has_spent_is_shown(home: Path) -> None:
    ledger = Ledger(home / "privacy.jsonl", Budget(8.0, 1e-5))
    ledger.book_plan("ab" * 32, 2.0, 20)
    ledger.book_plan_round("ab" * 32, 1, cohort=9)
    shown = palate("privacy").stdout
    assert "1 rounds have spent epsilon" in shown
    assert "a noise plan of 20 rounds is paid for in that, 1 of them done" in " ".join(shown.split())
    found = told("privacy")
    assert (found["plans"], found["mechanism"]) == ([{"rounds": 20, "done": 1}], "server")
