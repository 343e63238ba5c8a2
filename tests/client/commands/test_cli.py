"""The command line: what it prints where, how it ends, what each help shows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from palate.client.commands.cli import app
from palate.client.demo.showcase import demo_folder

DEMO = demo_folder()
BOAT, CITY = str(DEMO / "boat.jpg"), str(DEMO / "city.jpg")
COMMANDS = (
    ["init"], ["teach"], ["profile"], ["profile", "set"], ["profile", "lock"], ["profile", "unlock"],
    ["profile", "veto"], ["profile", "unset"], ["comments"], ["comments", "fix"],
    ["forget"], ["create"], ["score"], ["export"],
    ["import"], ["erase"], ["demo"], ["doctor"], ["unlock"], ["lock"], ["passphrase"], ["config"],
    ["config", "set"], ["config", "unset"], ["join"], ["leave"], ["outbox"], ["release", "show"],
    ["release", "adopt"], ["release", "back"], ["release", "witness"], ["release", "compare"],
    ["release", "reset"], ["pseudonyms", "show"], ["pseudonyms", "request"], ["pseudonyms", "take"],
)  # fmt: skip
PALATE = [sys.executable, "-c", "from palate.client.commands.cli import main; main()"]


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch, remembered_keys: None) -> None:
    """Give the passphrase by the environment, and a terminal that is wide enough not to wrap."""
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")


def palate(*arguments: str, status: int = 0, **options: Any) -> Result:
    """Run the command line in this process and check how it ends."""
    done = CliRunner().invoke(app, list(arguments), **options)
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def told(*arguments: str, **options: Any) -> Any:
    """What a command prints as JSON, on an stdout that holds nothing else."""
    return json.loads(palate(*arguments, "--json", **options).stdout)


@pytest.fixture
def vault(taught_vault: Path) -> Path:
    """A vault with two comments."""
    return Path(shutil.copytree(taught_vault, os.environ["PALATE_HOME"]))


def test_a_vault_is_made_where_palate_home_says() -> None:
    assert told("init") == {"home": os.environ["PALATE_HOME"]}
    assert Path(os.environ["PALATE_HOME"], "vault.head").exists()


def test_the_option_home_beats_the_environment(tmp_path: Path) -> None:
    palate("init", "--home", str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "vault.head").exists()
    assert not Path(os.environ["PALATE_HOME"]).exists()


def test_without_either_the_vault_lies_in_the_platforms_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from palate.client.commands import shell

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert shell.home_of(None).name == "palate"


def test_teaching_prints_what_was_understood(vault: Path) -> None:
    done = palate("teach", BOAT, "--comment", "the blue is gorgeous, but I hate the fog", "--like")
    assert "+ blue" in done.stdout
    assert "− fog" in done.stdout
    (entry,) = told("teach", BOAT, "--comment", "the blue is gorgeous, but I hate the fog", "--like")
    assert entry["new"] is False
    assert {one["attribute"]: one["liked"] for one in entry["attributes"]} == {"blue": True, "fog": False}


def test_the_profile_as_json_has_the_documented_form(vault: Path) -> None:
    profile = told("profile")
    for kind in ("likes", "dislikes"):
        assert profile[kind]
        assert all(
            set(one) == {"attribute", "category", "strength", "comments", "quotes"} for one in profile[kind]
        )
    ids = {one["id"] for one in told("comments")}
    assert set(profile["likes"][0]["comments"]) <= ids


def test_the_profile_for_people_shows_strength_evidence_and_what_is_missing(vault: Path) -> None:
    shown = palate("profile").stdout
    assert re.search(r"misty +█+", shown)
    assert "“misty” in " in shown
    assert "7 liked and 7 disliked" in shown


def test_an_empty_profile_says_how_to_begin() -> None:
    palate("init")
    assert "palate teach" in palate("profile").stdout


def test_a_negative_strength_is_a_number_and_no_option(vault: Path) -> None:
    profile = told("profile", "set", "bold outlines", "-0.5")
    assert {
        "attribute": "bold outlines",
        "category": "line",
        "strength": 0.5,
        "comments": [],
        "quotes": [],
    } in profile["dislikes"]


def test_setting_locking_and_vetoing_by_hand(vault: Path) -> None:
    palate("profile", "lock", "misty")
    assert "(locked)" in palate("profile").stdout
    assert "locked" in palate("profile", "set", "misty", "0.1", status=1).stderr
    palate("profile", "unlock", "misty")
    palate("profile", "veto", "misty")
    assert told("profile")["vetoed"] == ["misty"]
    palate("profile", "unset", "misty")
    assert told("profile")["vetoed"] == []


def test_forgetting_by_the_id_that_comments_shows(vault: Path) -> None:
    first = told("comments")[0]
    assert first["id"] in palate("comments").stdout
    palate("forget", first["id"], "--yes")
    assert [one["comment"] for one in told("comments")] == ["too busy"]
    assert "misty" not in json.dumps(told("profile"))


def test_forgetting_asks_and_without_a_terminal_refuses(vault: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = told("comments")[0]["id"]
    line = palate("forget", first, status=1).stderr.strip()
    assert f"Forget {first} (“I love the misty watercolour”)" in line
    assert "add --yes" in line
    assert "\n" not in line
    monkeypatch.setattr("palate.client.commands.shell.is_terminal", lambda: True)
    assert "nothing was done" in palate("forget", first, status=1, input="n\n").stderr
    assert len(told("comments")) == 2
    palate("forget", first, input="y\n")
    assert len(told("comments")) == 1


def test_an_id_may_be_cut_short_as_far_as_it_is_the_only_one(
    vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["abcd0001", "abcd0002", "abce0003"])
    monkeypatch.setattr(
        "palate.client.reader.comment.secrets", SimpleNamespace(token_hex=lambda _: next(ids))
    )
    for words in ("gorgeous blue", "lovely mist", "gloomy"):
        palate("teach", BOAT, "--comment", words)
    assert [one["id"] for one in told("comments", "ABCE")] == ["abce0003"]
    line = palate("forget", "abc", "--yes", status=1).stderr
    assert "3 comments begin with 'abc'" in line
    assert "abcd0001 (“gorgeous blue”); abcd0002 (“lovely mist”)" in line
    palate("forget", "abce", "--yes")
    assert len(told("comments")) == 4
    for nothing in ("", "xyz", "abcd00011"):
        assert "there is no comment" in palate("forget", nothing, "--yes", status=1).stderr


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with two pictures, one of them with a long name, and one that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(BOAT, folder / "boat.jpg")
    shutil.copy(CITY, folder / f"{'a long name ' * 6}.jpg")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_folder_is_taught_by_a_verdict_and_a_bad_picture_in_it_is_named(
    vault: Path, pictures: Path
) -> None:
    done = palate("teach", str(pictures), "--like", status=1)
    assert "2 pictures taught, 1 of them known before" in done.stdout
    assert "broken.png" in done.stderr
    assert len(told("comments")) == 3
    (pictures / "broken.png").unlink()
    assert [one["new"] for one in told("teach", str(pictures), "--like")] == [False, False]


def test_a_picture_without_words_and_several_pictures_are_taught(vault: Path, pictures: Path) -> None:
    cat, tree = str(DEMO / "cat.jpg"), str(DEMO / "tree.jpg")
    (one,) = told("teach", cat, "--dislike")
    assert (one["comment"], one["liked"], one["attributes"]) == ("", False, [])
    assert f"{one['id']}  disliked\n" in palate("comments").stdout
    both = told("teach", cat, tree, "--like", "--comment", "lovely mist")
    assert [one["comment"] for one in both] == ["lovely mist", "lovely mist"]


def test_one_bad_picture_does_not_end_scoring(vault: Path, pictures: Path) -> None:
    done = palate("score", str(pictures), "--json", status=1)
    assert [Path(one["image"]).name[:4] for one in json.loads(done.stdout)] == ["a lo", "boat"]
    assert "broken.png" in done.stderr
    done = palate("score", str(pictures), "--liked", BOAT, "--disliked", CITY, status=1)
    assert "boat.jpg" in done.stdout
    assert "broken.png" in done.stderr
    (pictures / "broken.png").unlink()
    assert len(told("score", str(pictures))) == 2


@pytest.mark.parametrize("columns", ["60", "80", "160"])
def test_tables_keep_file_names_whole(
    columns: str, vault: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "broken.png").unlink()
    monkeypatch.setenv("COLUMNS", columns)
    lines = palate("score", str(pictures)).stdout.splitlines()
    for file in pictures.iterdir():
        assert any(str(file) in line for line in lines), lines
    own = [line for line in lines if str(pictures) not in line]
    assert all(len(line) <= int(columns) for line in own)


def test_what_is_learned_from_pictures_is_said_without_the_words_of_the_field(
    vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cat", "tree", "flower"):
        palate("teach", str(DEMO / f"{name}.jpg"), "--like")
    for name in ("balloon", "mountain", "mushroom"):
        palate("teach", str(DEMO / f"{name}.jpg"), "--dislike")
    said = palate("score", BOAT).stderr
    assert "of your pairs of a liked and a disliked picture" in said
    assert not re.search("adapter|held-out|encoder|evaluator|logit", said)


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals")
def test_on_a_terminal_errors_wrap_at_words_and_progress_is_gone_when_done(
    vault: Path, pictures: Path
) -> None:
    import pty

    def shown(*arguments: str) -> str:
        ours, theirs = pty.openpty()
        environment = os.environ | {"COLUMNS": "60", "TERM": "xterm"}
        with subprocess.Popen(
            [*PALATE, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        ):
            os.close(theirs)
            data = b""
            while True:
                try:
                    part = os.read(ours, 65536)
                except OSError:
                    break
                if not part:
                    break
                data += part
        os.close(ours)
        return data.decode()

    lines = re.sub("\x1b[^m]*m", "", shown("forget", "nothing", "--yes")).split("\r\n")
    assert " ".join(line.strip() for line in lines).strip() == (
        "palate: there is no comment 'nothing'; `palate comments` lists them with their ids"
    )
    assert len(lines) > 2
    text = shown("score", str(pictures))
    assert "reading pictures" in text
    # Each frame of the progress is erased, and nothing of it follows the last erasure.
    assert "reading pictures" not in text.rpartition("\x1b[2K")[2]
    assert "boat.jpg" in text.rpartition("\x1b[2K")[2]


def test_export_erase_import_brings_everything_back(vault: Path, tmp_path: Path) -> None:
    before = told("profile")
    file = str(tmp_path / "taste.palate")
    told("export", file)
    told("erase", "--yes")
    assert not vault.exists()
    told("import", file)
    assert told("profile") == before


def test_an_imported_vault_says_what_counts_as_spent(vault: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "taste.palate")
    told("export", file)
    done = palate("import", file, "--home", str(tmp_path / "new"))
    assert "epsilon 8, its whole budget, counts as spent" in done.stderr
    assert told("import", file, "--home", str(tmp_path / "known"), "--spent", "2.5")["epsilon_counted"] == (
        pytest.approx(2.5)
    )
    assert "spent is -1" in palate(
        "import", file, "--home", str(tmp_path / "wrong"), "--spent", "-1", status=1
    ).stderr  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_folder_that_others_could_use_is_mended_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    done = palate("init", "--home", str(tmp_path / "open"))
    assert "mode 0777" in done.stderr
    (tmp_path / "open").chmod(0o750)
    assert "mode 0750" in palate("comments", "--home", str(tmp_path / "open")).stderr
    assert "mode" not in palate("comments", "--home", str(tmp_path / "open")).stderr


def test_erasing_wants_to_be_meant(vault: Path) -> None:
    assert "--yes" in palate("erase", status=1).stderr
    assert told("comments")


def test_erasing_nothing_is_said() -> None:
    assert "there is no vault" in palate("erase", "--yes", status=1).stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_in_its_help(command: list[str]) -> None:
    shown = palate(*command, "--help").stdout
    assert re.search(rf"Examples?:.*palate {' '.join(command)}", shown, re.S)


def test_the_overview_names_every_command() -> None:
    shown = palate("--help").stdout
    assert all(command[0] in shown for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["paint"],
        ["teach", "--colour"],
        ["create"],
        ["create", "a house", "-n", "many"],
        ["forget"],
        ["score"],
    ],
)
def test_misuse_ends_with_two(arguments: list[str]) -> None:
    assert palate(*arguments, status=2).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["teach"],
        ["teach", BOAT],
        ["teach", BOAT, "--comment", "misty", "--from", "comments.json"],
        ["teach", "--from", "comments.json", "--like"],
        ["score", BOAT, "--liked", BOAT],
        ["teach", str(DEMO)],
        ["teach", BOAT, CITY, "--comment", "misty"],
    ],
)
def test_options_that_do_not_fit_together_are_one_line(arguments: list[str]) -> None:
    line = palate(*arguments, status=1).stderr.strip()
    assert line.startswith("palate: ")
    assert "\n" not in line


def test_a_persons_words_are_shown_without_markup_and_control_codes(vault: Path) -> None:
    palate("teach", BOAT, "--comment", "lovely [bold]mist[/bold] \x1b[31m and \x07 light")
    shown = palate("comments").stdout
    assert "[bold]mist[/bold]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_without_a_terminal_the_passphrase_must_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PALATE_PASSPHRASE")
    assert "PALATE_PASSPHRASE" in palate("init", status=1).stderr


# --- as a program of its own --------------------------------------------------------------------------------


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PALATE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        encoding="utf-8",
        **options,
    )


def test_json_is_alone_on_stdout_and_errors_are_alone_on_stderr(vault: Path) -> None:
    good = run("profile", "--json")
    assert json.loads(good.stdout)["likes"]
    assert good.stderr == ""
    bad = run("forget", "nothing", "--json")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "Traceback" not in bad.stderr


def test_ctrl_c_ends_with_130_and_one_line(vault: Path, tmp_path: Path) -> None:
    entries = [{"image": f"{i}.jpg", "comment": f"lovely mist number {i}"} for i in range(400)]
    for i in range(400):
        (tmp_path / f"{i}.jpg").write_bytes((DEMO / "boat.jpg").read_bytes())
    (tmp_path / "comments.json").write_text(json.dumps(entries))
    running = subprocess.Popen(
        [*PALATE, "teach", "--from", str(tmp_path / "comments.json")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    records = vault / "records"
    before = len(list(records.iterdir()))
    deadline = time.monotonic() + 60
    while len(list(records.iterdir())) < before + 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert output == ""
    assert errors.strip() == "palate: stopped; everything that was finished before is kept"
    assert 3 <= len(told("comments")) < 402


def test_a_closed_pipe_is_no_traceback(vault: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(repr(part) if ' ' in part else part for part in PALATE)} comments | true"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_a_terminal_that_knows_only_ascii_gets_question_marks(vault: Path) -> None:
    done = subprocess.run(
        [*PALATE, "profile"], capture_output=True, timeout=60, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0
    assert b"misty" in done.stdout


def test_the_profile_is_asked_for_without_loading_anything_heavy(vault: Path) -> None:
    code = (
        "import sys; from palate.client.commands.cli import app\n"
        "try: app(['profile', '--json'])\n"
        "except SystemExit as end: assert not end.code, end\n"
        "names = 'torch', 'numpy', 'PIL', 'transformers', 'diffusers', 'peft'\n"
        "print([name for name in names if name in sys.modules],"
        " file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"


def test_a_misreading_is_put_right_by_hand_and_stays_right(vault: Path) -> None:
    (entry,) = told("teach", BOAT, "--comment", "the dark water, the golden light", "--like")
    fixed = told("comments", "fix", entry["id"][:6], "dark", "--dislike")
    assert {one["attribute"]: one["liked"] for one in fixed["attributes"] if "dark" in one["attribute"]}
    assert not any(one["liked"] for one in fixed["attributes"] if "dark" in one["attribute"])
    assert told("comments", entry["id"])[0]["attributes"] == fixed["attributes"]
    gone = told("comments", "fix", entry["id"], "golden", "--none")
    assert not any("golden" in one["attribute"] for one in gone["attributes"])
    for wrong in (("dark",), ("dark", "--like", "--none"), ("purple", "--like")):
        done = palate("comments", "fix", entry["id"], *wrong, status=1)
        assert done.stderr.startswith("palate: ")
        assert len(done.stderr.splitlines()) == 1


def test_what_is_unsure_is_asked_on_a_terminal_and_the_answer_is_kept(
    vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palate.client.commands import taste
    from palate.client.device import Device
    from palate.client.reader.extractor import Given
    from palate.shared.attributes import Mention

    doubtful = Mention("dark", "lighting", 1, 0.2, "dark", "dark", unsure=True)
    with Device.open(vault, "correct horse", extractor=Given([doubtful])) as device:
        taught = device.teach(BOAT, "so dark, hm")
        monkeypatch.setattr("palate.client.commands.shell.is_terminal", lambda: True)
        for answer, polarity in (("", 1), ("d", -1)):
            monkeypatch.setattr("typer.prompt", lambda *_, given=answer, **__: given)
            assert [m.polarity for m in taste._ask_back(device, taught).mentions] == [polarity]
        assert [m.polarity for m in device.comments()[-1].mentions] == [-1]
        monkeypatch.setattr("palate.client.commands.shell.is_terminal", lambda: False)
        assert taste._ask_back(device, taught) is taught
