"""Reads a documented command line and finds what is wrong with it, without running it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ppgan_fr.cli import COMMANDS
from ppgan_fr.config import ConfigError, load_config

ROOT = Path(__file__).resolve().parent.parent
PYTHON = re.compile(r"^(\S*/)?python(3(\.\d+)?)?$")
INTERPRETER_MODULES = {"venv", "pip", "pytest", "pre_commit", "paddle.distributed.launch", "http.server"}
LAUNCHER_OPTIONS_WITH_VALUE = {"--nproc_per_node", "--gpus", "--devices", "--ips", "--master", "--nnodes", "--log_dir"}
OTHER_PROGRAMS = {
    ".",
    "ray",
    "git",
    "cd",
    "cmake",
    "docker",
    "curl",
    "export",
    "pip",
    "pre-commit",
    "echo",
    "wget",
    "mkdir",
}


def split(line: str) -> list[list[str]]:
    """The simple commands of a line: what stands between `&&`, `;` and `|`, without comments and `A=b` prefixes."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [words for words in map(_without_environment, commands) if words]


def _without_environment(words: list[str]) -> list[str]:
    while words and re.match(r"^[A-Z_][A-Z0-9_]*=", words[0]):
        words = words[1:]
    return words


def problems(words: list[str]) -> list[str]:
    """Everything wrong with one simple command; nothing for a right one."""
    program, *rest = words
    if PYTHON.match(program):
        return _python_problems(rest)
    if program == "bash":
        return _missing(rest[:1])
    if program == "make":
        targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
        wanted = [word for word in rest if "=" not in word and not word.startswith("-")]
        return [f"make has no target {word}" for word in wanted if word not in targets]
    if program == "ppgan-fr":
        return _command_problems(rest[0], rest[1:]) if rest and not rest[0].startswith("-") else []
    return [] if program in OTHER_PROGRAMS else [f"unknown program {program}"]


def _python_problems(words: list[str]) -> list[str]:
    if words[:1] == ["-m"]:
        module, rest = words[1], words[2:]
        if module == "paddle.distributed.launch":
            return _python_problems(_after_launcher(rest))
        if module == "pip" and "-r" in rest:
            return _missing([rest[rest.index("-r") + 1]])
        known = module in INTERPRETER_MODULES or module.startswith(("ruff", "ppgan_fr", "pip"))
        return [] if known else [f"unknown module {module}"]
    if not words or words[0] == "-c":
        return []
    script, rest = words[0], words[1:]
    if missing := _missing([script]):
        return missing
    command = re.search(r"(?:run_command\(|main\(\[)\"([a-z-]+)\"", (ROOT / script).read_text(encoding="utf-8"))
    if command:
        return _command_problems(command[1], rest)
    return _script_problems(script, rest)


def _after_launcher(words: list[str]) -> list[str]:
    while words and words[0].startswith("--"):
        words = words[2:] if words[0] in LAUNCHER_OPTIONS_WITH_VALUE else words[1:]
    return words


def _command_problems(name: str, arguments: list[str]) -> list[str]:
    if name not in COMMANDS:
        return [f"ppgan-fr has no command {name}"]
    parser = argparse.ArgumentParser(prog=name)
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    parsed = _parse(parser.parse_args, arguments)
    if isinstance(parsed, str):
        return [parsed]
    config = getattr(parsed, "config", None)
    if config is None:
        return []
    without = () if name in ("train", "eval") else ("recipe", "data", "train", "evaluate")
    try:
        load_config(config, getattr(parsed, "override", None) or (), without=without)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _script_problems(script: str, arguments: list[str]) -> list[str]:
    """A program outside the command table: its `add_arguments(parser)`, its `arguments(given)`, or its `--help`."""
    source = (ROOT / script).read_text(encoding="utf-8")
    if re.search(r"^def (add_arguments\(parser\b[^,]*\)|arguments\(given\b)", source, re.M) is None:
        return _unknown_to_help(script, arguments)
    spec = importlib.util.spec_from_file_location("documented_" + Path(script).stem, ROOT / script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "add_arguments"):
        parser = argparse.ArgumentParser(prog=script)
        module.add_arguments(parser)
        parsed = _parse(parser.parse_args, arguments)
    else:
        parsed = _parse(module.arguments, arguments)
    return [parsed] if isinstance(parsed, str) else []


def _unknown_to_help(script: str, arguments: list[str]) -> list[str]:
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return [f"{script} --help fails: {(done.stderr.strip().splitlines() or ['?'])[-1]}"]
    options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    return [f"{script} has no {option}" for option in sorted(options) if not re.search(rf"{option}\b", done.stdout)]


def _parse(parse: Callable[[list[str]], argparse.Namespace], arguments: list[str]) -> argparse.Namespace | str:
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(message):
            return parse(arguments)
    except SystemExit as stop:
        return argparse.Namespace() if not stop.code else message.getvalue().strip().splitlines()[-1]


def _missing(paths: list[str]) -> list[str]:
    return [f"{path} does not exist" for path in paths if not (ROOT / path).is_file()]
