"""Configuration: what a user sees when a value is wrong, and what the program gets when it is right."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ppgan_fr import config as configuration
from ppgan_fr.config import ConfigError, dump_config, find_file, load_config, make_config, override, parse_override


@pytest.fixture
def tree(monkeypatch, tmp_path):
    """A minimal configuration whose networks are two files made for the test."""
    package = tmp_path / "toy_package"
    (package / "nets").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "nets" / "__init__.py").touch()
    source = "from typing import Annotated, Any, Literal\nfrom ppgan_fr.config import Arch, Frozen\n"
    (package / "nets" / "toy.py").write_text(
        source
        + 'class Config(Frozen):\n    arch: Literal["toy"] = "toy"\n    width: int = 4\n    inner: Arch | None = None\n'
    )
    (package / "nets" / "other.py").write_text(source + 'class Config(Frozen):\n    arch: Literal["other"] = "other"\n')
    (package / "nets" / "_shared.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    find = configuration.ByFileName.names
    load = configuration.importlib.import_module
    monkeypatch.setattr(
        configuration.ByFileName,
        "names",
        lambda self: ["other", "toy"] if self.key == "arch" else find(self),
    )
    monkeypatch.setattr(
        configuration.importlib, "import_module", lambda name: load(name.replace("ppgan_fr.archs", "toy_package.nets"))
    )
    yield {"name": "x", "generator": {"arch": "toy"}}
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_package"]:
        del sys.modules[name]  # the next test's package lies in another folder


def mistakes(tree, *overrides):
    with pytest.raises(ConfigError) as error:
        make_config(tree, overrides)
    return str(error.value).splitlines()


def test_an_unknown_key_is_reported_with_its_path_and_a_suggestion(tree):
    assert "train.totl_steps: unknown key; did you mean 'total_steps'?" in mistakes(tree, "train.totl_steps=1")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.total_steps=ten"], "train.total_steps: expected int, got 'ten'"),
        (["train.total_steps=0"], "train.total_steps: must be positive, got 0"),
        (
            ["train.total_steps=1", "train.precision=fp16"],
            "train.precision: must be one of 'float32', 'float16', 'bfloat16', got 'fp16'",
        ),
        (["generator.width=wide"], "generator.width: expected int, got 'wide'"),
        (["generator.widht=3"], "generator.widht: unknown key; did you mean 'width'?"),
        (["generator.inner.arch=toy", "generator.inner.width=a"], "generator.inner.width: expected int, got 'a'"),
        (["generator.arch=tyo"], "generator.arch: there is no ppgan_fr/archs/tyo.py; available: other, toy"),
        (["generator.arch=../evil"], "generator.arch: there is no ppgan_fr/archs/../evil.py; available: other, toy"),
        (["generator={}"], "generator.arch: missing; available: other, toy"),
        (["generator=toy"], "generator: expected a section with 'arch', got 'toy'"),
        (["name.x=1"], "-o name.x: 'name' is a value, not a section"),
        (["name"], "-o name: expected section.key=value"),
        (
            ["data.root=x", "data.degradation.gfpgan.blur_sigma=[1,b]"],
            "data.degradation.gfpgan.blur_sigma.1: expected float, got 'b'",
        ),
        (["data.mirror=true"], "data.root: missing"),
        (["nme=3"], "nme: unknown key; did you mean 'name'?"),
    ],
)
def test_every_mistake_is_one_line(tree, overrides, expected):
    assert mistakes(tree, *overrides) == [expected]


def test_all_mistakes_are_shown_at_once(tree):
    lines = mistakes(tree, "train.total_steps=0", "data.bad=1", "generator.width=x")
    assert len(lines) == 4  # data.root is missing as well


def test_numbers_in_scientific_notation_are_numbers():
    assert parse_override("a=2e-3") == (["a"], 0.002)
    assert parse_override("a=[1E5, -.5e-1]") == (["a"], [1e5, -0.05])
    assert parse_override("a=1e") == (["a"], "1e")


def test_an_override_is_data_never_code():
    with pytest.raises(ConfigError):
        parse_override("a=!!python/object/apply:os.getcwd []")
    assert parse_override("a=__import__('os')")[1] == "__import__('os')"


def test_tipc_spellings_of_booleans_and_null_are_understood(tree):
    config = make_config(tree, ["train.total_steps=3", "train.resume=True", "weights=null"])
    assert config.train.resume is True
    assert config.weights is None


def test_overrides_do_not_change_the_given_tree():
    given = {"a": {"b": 1}}
    assert override(given, ["a.b=2", "a.c.d=3"]) == {"a": {"b": 2, "c": {"d": 3}}}
    assert given == {"a": {"b": 1}}


def test_the_configuration_cannot_be_changed(tree):
    config = make_config(tree)
    with pytest.raises(ValueError, match="frozen"):
        config.name = "y"


def test_the_saved_configuration_loads_to_an_equal_one(tree, tmp_path):
    config = make_config(tree, ["train.total_steps=8", "data.root=faces", "generator.inner.arch=other"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_a_section_that_is_not_needed_is_not_even_checked(tree):
    assert make_config({**tree, "recipe": {"name": "nonsense"}}, without=["recipe"]).recipe is None


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match=r"line 2 'name' stands twice"):
        load_config(tmp_path / "x.yaml")


def test_a_broken_yaml_names_file_and_line(tmp_path):
    (tmp_path / "x.yaml").write_text("name: [a\ntrain: {\n")
    with pytest.raises(ConfigError, match=r"x\.yaml: line \d"):
        load_config(tmp_path / "x.yaml")


def test_a_binary_file_is_not_a_configuration(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(tmp_path / "x.yaml")


def test_a_missing_file_suggests_a_name():
    with pytest.raises(ConfigError, match=r"no such file; did you mean configs/gfpgan\.yaml"):
        load_config("configs/gfpgn.yaml")


def test_files_are_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert find_file("pyproject.toml") == Path(configuration.CHECKOUT) / "pyproject.toml"
    assert find_file("nowhere.txt") == Path("nowhere.txt")


def test_a_dump_is_plain_yaml(tree):
    assert yaml.safe_load(dump_config(make_config(tree)))["generator"]["arch"] == "toy"


def test_a_deferred_network_is_imported_and_validated_when_something_asks(tree):
    config = make_config({**tree, "generator": {"arch": "toy", "width": "wide"}}, deferred=True)
    assert config.generator.arch == "toy"
    with pytest.raises(ConfigError, match=r"generator\.width: expected int, got 'wide'"):
        _ = config.generator.width
    assert make_config(tree, deferred=True).generator.width == 4
    with pytest.raises(ConfigError, match=r"there is no .*/nope\.py"):
        make_config({**tree, "generator": {"arch": "nope"}}, deferred=True)


def test_reading_a_configuration_to_predict_does_not_import_paddle():
    program = (
        "import sys\n"
        "from ppgan_fr.config import load_config\n"
        "import ppgan_fr.restorer\n"
        "config = load_config('configs/gfpgan_mobile.yaml', without=('recipe', 'train'), deferred=True)\n"
        "assert config.generator.arch == 'gfpgan_mobile'\n"
        "print('paddle.nn' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=configuration.CHECKOUT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
