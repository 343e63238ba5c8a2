"""`palate config`, and how option, environment, config file and default come before one another."""

import json
from pathlib import Path
from typing import Any

import pytest
from click import Context
from click.testing import Result
from typer.main import get_command
from typer.models import TyperPath
from typer.testing import CliRunner

from palate.client.commands import making
from palate.client.commands.cli import app
from palate.client.device import Device


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, remembered_keys: None, tmp_path: Path) -> None:
    """Give a passphrase, a home folder of its own, and no PALATE_HOME."""
    monkeypatch.setenv("PALATE_PASSPHRASE", "correct horse")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.delenv("PALATE_HOME")


def palate(*arguments: str, status: int = 0, **options: Any) -> Result:
    done = CliRunner().invoke(app, list(arguments), **options)
    assert done.exit_code == status, (done.stdout, done.stderr, done.exception)
    return done


def values() -> dict[str, Any]:
    return dict(json.loads(palate("config", "--json").stdout)["values"])


def test_what_is_set_is_shown_and_what_is_unset_is_gone() -> None:
    palate("config", "set", "steps", "30")
    palate("config", "set", "server", "palate.example.org")
    assert values() == {"steps": 30, "server": "palate.example.org"}
    palate("config", "unset", "steps")
    assert values() == {"server": "palate.example.org"}
    shown = palate("config").stdout
    assert "palate.example.org" in shown
    assert "steps   (not set)" in shown


def test_option_beats_environment_beats_config_beats_default(tmp_path: Path) -> None:
    def home(*options: str, **environment: str) -> str:
        done = palate("init", "--json", *options, env=environment)
        return Path(json.loads(done.stdout)["home"]).name

    palate("config", "set", "home", str(tmp_path / "from-config"))
    assert home() == "from-config"
    assert home(PALATE_HOME=str(tmp_path / "from-environment")) == "from-environment"
    option = ["--home", str(tmp_path / "from-option")]
    assert home(*option, PALATE_HOME=str(tmp_path / "never")) == "from-option"
    palate("config", "unset", "home")
    assert home(XDG_DATA_HOME=str(tmp_path / "data")) == "palate"


def test_model_steps_and_size_reach_create_and_server_reaches_join(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key, value in (
        ("model", "owner/name@abc"),
        ("steps", "7"),
        ("size", "512x768"),
        ("server", "a.example"),
    ):
        palate("config", "set", key, value)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(Device, "create", lambda self, prompt, **options: asked.update(options) or [])
    monkeypatch.setattr("palate.client.painter.gallery.write_pictures", lambda *_: None)
    home = ["--home", str(tmp_path / "v")]
    palate("init", *home)
    palate("create", "a house", "--json", "--steps", "9", *home, status=1)
    assert (asked["model"], asked["steps"], asked["size"]) == ("owner/name@abc", 9, (512, 768))
    told: list[str] = []
    monkeypatch.setattr(
        "palate.client.federation.server_address.check_address",
        lambda server, **_: told.append(server) or server,
    )
    palate("join", "--ask", status=1)
    assert told == ["a.example"]


def test_a_config_file_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    palate("--config", str(file), "config", "set", "steps", "5")
    assert file.read_text() == "steps = 5\n"
    assert values() == {}
    done = palate("config", "--json", env={"PALATE_CONFIG": str(file)})
    assert json.loads(done.stdout) == {"file": str(file), "values": {"steps": 5}}
    line = palate("--config", str(tmp_path / "none.toml"), "comments", status=1).stderr
    assert "none.toml does not exist" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hom = '/x'", "unknown key 'hom'; known are home, model, steps, size, server"),
        ("steps = '5'", "steps is '5'"),
        ("steps = true", "steps is True"),
        ("home = 'taste'", "it must be a whole path"),
        ("model = 7", "it must be text"),
        ("home", "is not TOML"),
        ("[home]", "home is {}"),
        ("\xff", "is not TOML"),
    ],
)
def test_a_bad_file_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(text.encode("latin-1"))
    line = palate("--config", str(file), "comments", status=1).stderr.strip()
    assert said in line
    assert "bad.toml" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "colour", "red"], "unknown key 'colour'; known are home"),
        (["unset", "colour"], "unknown key 'colour'"),
        (["set", "steps", "many"], "steps is 'many'"),
        (["set", "server", ""], "server is ''"),
        (["set", "server", "a\nb"], "server is"),
    ],
)
def test_a_bad_value_changes_nothing(arguments: list[str], said: str) -> None:
    palate("config", "set", "steps", "5")
    assert said in palate("config", *arguments, status=1).stderr
    assert values() == {"steps": 5}


def test_comments_that_the_person_wrote_stay(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('# fast\nsteps = 5\nserver = "a.example"  # Ann\'s\n')
    palate("--config", str(file), "config", "set", "steps", "6")
    assert file.read_text() == '# fast\nserver = "a.example"  # Ann\'s\nsteps = 6\n'
    file.write_text('server = """\nsteps = 1"""\n')
    assert "edit it" in palate("--config", str(file), "config", "set", "steps", "7", status=1).stderr
    assert "steps = 1" in file.read_text()


def test_a_home_without_a_root_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    palate("config", "set", "home", "taste")
    assert values() == {"home": str(tmp_path / "taste")}
    palate("config", "set", "home", "~/taste")
    assert values() == {"home": "~/taste"}
    assert json.loads(palate("init", "--json").stdout) == {"home": str(tmp_path / "me" / "taste")}


@pytest.mark.parametrize("way", ["option", "environment", "before the command"])
def test_a_tilde_is_the_home_folder(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if way == "environment":
        monkeypatch.setenv("PALATE_HOME", "~/taste")
        palate("init")
    else:
        palate("init", "--home", "~/taste")
    assert (tmp_path / "me" / "taste" / "vault.head").exists()
    if way == "before the command":
        palate("profile", "--home", "~/taste", "set", "misty", "1")
    export = palate("export", "~/a.palate", "--home", "~/taste")
    assert str(tmp_path / "me" / "a.palate") in export.stdout
    assert not (tmp_path / "~").exists()


def test_every_path_of_every_command_expands_a_tilde(tmp_path: Path) -> None:
    def paths(group: Any, context: Any) -> list[Any]:
        found = []
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            found += [one.type for one in command.params if isinstance(one.type, TyperPath)]
            found += paths(command, context) if hasattr(command, "commands") else []
        return found

    command = get_command(app)
    kinds = paths(command, Context(command))
    assert len(kinds) > 40  # those of `palate server` and `palate simulate` among them
    assert {str(kind.convert("~/a", None, None)) for kind in kinds} == {str(tmp_path / "me" / "a")}


def test_a_tilde_of_nobody_is_misuse() -> None:
    line = palate("init", "--home", "~nobody-of-that-name/taste", status=2).stderr
    assert "home folder that is not known" in line


def test_the_home_before_a_word_of_profile_beats_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path / "other"))
    for home in ("one", "other"):
        palate("init", "--home", str(tmp_path / home))
    palate("profile", "--home", str(tmp_path / "one"), "set", "misty", "1")
    assert "misty" in palate("profile", "--home", str(tmp_path / "one")).stdout
    assert "misty" not in palate("profile").stdout


@pytest.mark.parametrize(
    ("text", "size"), [("512", (512, 512)), ("512x768", (512, 768)), ("64X32", (64, 32))]
)
def test_sizes_that_are_read(text: str, size: tuple[int, int]) -> None:
    assert making.read_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "5x", "a", "-5", "5x5x5", "1e3", "²"])
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(making.OptionError, match="--size is"):
        making.read_size(text)


def test_the_version_and_the_short_help() -> None:
    from importlib.metadata import version

    assert palate("--version").stdout == f"palate {version('palate')}\n"
    for arguments in (
        ["-h"],
        ["teach", "-h"],
        ["profile", "set", "-h"],
        ["server", "-h"],
        ["release", "adopt", "-h"],
    ):
        assert "Usage: palate" in palate(*arguments).stdout


def test_the_shell_completes_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str, at: int) -> list[str]:
        asked = {"_PALATE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        return palate(env=asked).stdout.split()

    assert completed("palate pro", 1) == ["profile"]
    assert "--comment" in completed("palate teach --c", 2)
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    assert "complete -o default -F _palate_completion palate" in palate("--show-completion").stdout
