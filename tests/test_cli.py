"""The command line: what is printed, what comes back as exit code, what is imported."""

import subprocess
import sys
import types

import pytest

from ppgan_fr import cli
from ppgan_fr.config import CHECKOUT, ConfigError


@pytest.fixture
def command(monkeypatch):
    """Makes `ppgan-fr toy` run the given function."""

    def make(run):
        module = types.ModuleType("ppgan_fr_toy")
        module.add_arguments = cli.add_config_arguments
        module.run = run
        monkeypatch.setitem(sys.modules, "ppgan_fr_toy", module)
        monkeypatch.setitem(cli.COMMANDS, "toy", ("ppgan_fr_toy", "a toy"))

    return make


def test_without_arguments_the_commands_are_listed_and_the_code_is_2(capsys):
    assert cli.main([]) == 2
    assert "predict" in capsys.readouterr().out


def test_help_is_no_mistake(capsys):
    assert cli.main(["--help"]) == 0
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith("0.1.0")


def test_an_unknown_command_is_one_line(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("ppgan-fr: there is no command 'trian'")


def test_a_mistake_in_the_configuration_is_one_line_per_mistake_and_code_2(command, capsys):
    def run(arguments):
        raise ConfigError("train.a: unknown key\ntrain.b: missing")

    command(run)
    assert cli.main(["toy", "-c", "x"]) == 2
    assert capsys.readouterr().err == "ppgan-fr toy: train.a: unknown key\nppgan-fr toy: train.b: missing\n"


def test_a_file_that_is_not_there_is_named(command, capsys, tmp_path):
    command(lambda arguments: (tmp_path / "nowhere").read_text())
    assert cli.main(["toy", "-c", "x"]) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback(command):
    def run(arguments):
        raise ValueError("not meant for a user")

    command(run)
    with pytest.raises(ValueError, match="not meant"):
        cli.main(["toy", "-c", "x"])


def test_a_missing_package_says_what_to_install(command, capsys):
    def run(arguments):
        raise ModuleNotFoundError("No module named 'paddle'", name="paddle")

    command(run)
    assert cli.main(["toy", "-c", "x"]) == 2
    assert "'paddle' is missing (pip install -r requirements.txt)" in capsys.readouterr().err


def test_overrides_may_be_repeated_and_followed_by_several(command):
    seen = []
    command(lambda arguments: seen.extend(arguments.override) or 0)
    assert cli.main(["toy", "-c", "x", "-o", "a=1", "b=2", "-o", "c=3"]) == 0
    assert seen == ["a=1", "b=2", "c=3"]


def test_the_exit_code_of_a_command_is_passed_on(command):
    command(lambda arguments: 3)
    assert cli.main(["toy", "-c", "x"]) == 3


def test_starting_up_does_not_import_paddle():
    program = "import sys, ppgan_fr.cli, ppgan_fr.config; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=False).returncode == 0


def test_a_dry_run_prints_the_resolved_configuration_and_trains_nothing(capsys, tmp_path):
    overrides = ["train.total_steps=7", f"output_dir={tmp_path / 'out'}"]
    assert cli.main(["train", "-c", "smoke/stylegan2", "--dry-run", "-o", *overrides]) == 0
    assert "total_steps: 7" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_misspelt_key_on_the_command_line_is_code_2(capsys):
    assert cli.main(["train", "-c", "smoke/stylegan2", "-o", "train.totl_steps=7"]) == 2
    assert "train.totl_steps: unknown key; did you mean 'total_steps'?" in capsys.readouterr().err


def test_a_run_that_diverges_is_code_3(capsys, monkeypatch):
    from ppgan_fr.train import loop
    from ppgan_fr.train.step import DivergedError

    def train(config):
        raise DivergedError("step 5: g/pixel became nan")

    monkeypatch.setattr(loop, "train", train)
    assert cli.main(["train", "-c", "smoke/stylegan2"]) == 3
    assert "step 5: g/pixel became nan" in capsys.readouterr().err


@pytest.mark.parametrize("tool", sorted(path.name for path in (CHECKOUT / "tools").glob("*.py")))
def test_every_tool_is_a_command_or_a_program_of_its_own(tool):
    text = (CHECKOUT / "tools" / tool).read_text()
    if "run_command(" in text:
        assert text.split('run_command("')[1].split('"')[0] in cli.COMMANDS
    assert '__name__ == "__main__"' in text
