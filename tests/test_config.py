"""Settings and secrets, read from directories of the test."""

from __future__ import annotations

import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from recursor import config, plugins
from recursor.errors import ConfigError

KEY = "sk-never-shown"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of ours in an empty XDG_CONFIG_HOME; no key is set."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for variable in ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "config/recursor"
    folder.mkdir(parents=True)
    return folder


def write_keys(home: Path, text: str, mode: int = 0o600) -> Path:
    path = home / "keys.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_without_a_file_every_setting_is_a_default(home: Path) -> None:
    loaded = config.load()
    assert loaded.settings == config.Settings()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.store_path == home.parents[1] / "state/recursor/runs.db"


def test_flags_win_over_the_file_and_the_file_over_defaults(home: Path) -> None:
    (home / "config.toml").write_text('model = "openai/gpt-5"\n[limits]\nmax_turns = 7\nmax_cost = 1\n')
    loaded = config.load(flags={"limits.max_cost": 0.5, "model": None})
    assert loaded.settings.model == "openai/gpt-5"
    assert (loaded.settings.limits.max_turns, loaded.settings.limits.max_cost) == (7, 0.5)
    assert loaded.origins["limits.max_cost"] == "--max-cost"
    assert loaded.origins["model"] == loaded.origins["limits.max_turns"] == str(home / "config.toml")
    assert loaded.origins["sandbox"] == "default"


def test_no_environment_variable_changes_a_setting(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RECURSOR_MODEL", "MODEL", "RECURSOR_STORE", "RECURSOR_SANDBOX"):
        monkeypatch.setenv(variable, "other")
    assert config.load().settings == config.Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('modle = "x"', "unknown key 'modle'; did you mean 'model'?"),
        ("[limits]\nmax_turn = 3", "unknown key 'limits.max_turn'; did you mean 'max_turns'?"),
        ("[limits]\nmax_turns = 'many'", "limits.max_turns: expected a whole number, not 'many'"),
        ("[limits]\nmax_turns = 0", "max_turns must be"),
        ("[limits]\nmax_cost = nan", "max_cost must be"),
        ("limits = 3", "limits must be a table, not 3"),
        ("record = 1", "record: expected true or false, not 1"),
        ("model = 3", "model: expected a string, not 3"),
        ("model = ", "is not TOML"),
        ("routes = 3", "routes: expected a list, not 3"),
        ("routes = ['a']", "routes: expected a table, not ['a']"),
        ("allow = 'b'", "allow: expected a list, not 'b'"),
        ("allow = ['b']", "allow goes with [[routes]], and there are none"),
        ("[[routes]]\nmodl = 'a'", "[[routes]] number 1: unknown key 'modl'; did you mean 'model'?"),
        ("[[routes]]\nmodel = 'a'\npurpose = 'sub'", "no route serves a root LM at depth 0"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_the_remedy(home: Path, text: str, said: str) -> None:
    (home / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load()
    assert said in str(caught.value)
    assert str(home / "config.toml") in str(caught.value)


def test_a_mark_of_its_encoding_is_no_part_of_a_file(home: Path) -> None:
    (home / "config.toml").write_bytes(b'\xef\xbb\xbfmodel = "x"')
    assert config.load().settings.model == "x"


def test_a_user_without_a_home_is_told_what_to_set_and_needs_it_for_no_key(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    file = home / "config.toml"
    file.write_text('model = "x"')
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert config.api_key("openai/gpt-5") is None
    assert config.load(file).settings.model == "x"
    with pytest.raises(ConfigError, match="no home directory: set XDG_CONFIG_HOME"):
        config.load()
    with pytest.raises(ConfigError, match="no home directory: set XDG_STATE_HOME"):
        config.default_store()


def test_a_file_that_was_named_must_exist(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*other\.toml"):
        config.load(home / "other.toml")


def test_a_key_comes_from_the_environment_before_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(home, 'openai = "from-file"')
    assert config.api_key("openai/gpt-5") == "from-file"
    monkeypatch.setenv("OPENAI_API_KEY", "from-environment")
    assert config.api_key("openai/gpt-5") == "from-environment"


def test_the_second_variable_of_a_provider_counts_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)
    assert config.api_key("gemini/gemini-2.5-flash") == KEY


def test_a_model_without_a_known_provider_has_no_key(home: Path) -> None:
    assert config.api_key("my-model") is None
    assert config.api_key("nobody/my-model") is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_keys_file_that_others_may_read_is_refused_with_the_command_to_run(home: Path, mode: int) -> None:
    path = write_keys(home, f'openai = "{KEY}"', mode)
    with pytest.raises(ConfigError) as caught:
        config.api_key("openai/gpt-5")
    assert f"chmod 600 {path}" in str(caught.value)
    assert KEY not in str(caught.value)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_key_may_come_from_a_command(home: Path) -> None:
    write_keys(home, f'openai = {{command = "echo {KEY}"}}')
    assert config.api_key("openai/gpt-5") == KEY


@pytest.mark.parametrize(
    "value",
    ['{command = "false"}', '{command = "/no/such/program"}', '{command = "\'"}', '{cmd = "x"}', "3", '""'],
)
def test_a_key_that_cannot_be_had_is_an_error(home: Path, value: str) -> None:
    write_keys(home, f"openai = {value}")
    with pytest.raises(ConfigError, match="openai"):
        config.api_key("openai/gpt-5")


def test_a_damaged_keys_file_is_refused_without_showing_it(home: Path) -> None:
    write_keys(home, f"openai = {KEY}")
    with pytest.raises(ConfigError, match="is not TOML") as caught:
        config.api_key("openai/gpt-5")
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_plugin_is_found_by_name_and_by_import_path() -> None:
    from_name = plugins.load("recursor.sandboxes", "inprocess")
    assert from_name is plugins.load("recursor.sandboxes", "recursor.sandboxes.inprocess:InProcessSandbox")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("proces", "unknown sandbox 'proces'; did you mean 'process'?"),
        ("no.such.module:Thing", "cannot import the sandbox"),
        ("recursor.sandboxes.inprocess:Missing", "cannot import the sandbox"),
        (":", "cannot import the sandbox"),
        ("", "unknown sandbox ''"),
    ],
)
def test_a_plugin_that_does_not_exist_is_a_config_error(name: str, said: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        plugins.load("recursor.sandboxes", name)
    assert said in str(caught.value)
