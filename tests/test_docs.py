"""Every command of the documentation parses, every file it links to exists."""

from __future__ import annotations

import re

import pytest

from tests.commands import ROOT, problems, split

SHELL_BLOCK = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<(?:img|source)[^>]*\bsrc(?:set)?=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ (.+)$", re.M)
LEFT_OUT = (".venv", "build", "output", ".git", ".pytest_cache", "node_modules")

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.md")
    if not any(part in LEFT_OUT for part in path.relative_to(ROOT).parts)
)
SECTIONS = ["1", "2", "3", "3.1", "3.2", "3.3", "4", "4.1", "4.2", "4.3", "5", "5.1", "5.2", "6", "7", "8"]


def command_lines(text: str) -> list[str]:
    """The lines of the shell blocks, continued lines joined, prompts and comment lines removed."""
    lines = []
    for block in SHELL_BLOCK.findall(text):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            line = re.sub(r"^\s*\$ ", "", line).strip()
            if line and not line.startswith("#"):
                lines.append(line)
    return lines


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


COMMANDS = sorted({(page, line) for page in PAGES for line in command_lines(read(page))})


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line[:60]}" for page, line in COMMANDS])
def test_a_documented_command_is_understood_by_its_program(page, line):
    assert [problem for words in split(line) for problem in problems(words)] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_linked_file_exists(page):
    missing = []
    for first, second in LINK.findall(re.sub(r"```.*?```", "", read(page), flags=re.S)):
        target = (first or second).split("#")[0]
        if target and not re.match(r"^[a-z]+:", target) and not ((ROOT / page).parent / target).exists():
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_a_link_to_a_heading_finds_it(page):
    text = re.sub(r"```.*?```", "", read(page), flags=re.S)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}
    wanted = [target[1:] for target, _ in LINK.findall(text) if target.startswith("#")]
    assert [name for name in wanted if name not in anchors] == []


@pytest.mark.parametrize("page", ["README.md", "README_cn.md"])
def test_a_readme_has_the_sections_of_a_reproduction(page):
    assert re.findall(r"^##+ ([\d.]+) ", read(page), re.M) == SECTIONS


def test_both_readmes_give_the_same_commands():
    def bare(page):
        return [re.sub(r"\s+#.*", "", line) for line in command_lines(read(page))]

    assert bare("README.md") == bare("README_cn.md")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("python tools/nothing.py", "does not exist"),
        ("python tools/train.py", "required"),
        ("python tools/train.py -c configs/nothing.yaml", "no such file"),
        ("python tools/train.py -c x.yaml --nothing", "unrecognized"),
        ("make nothing", "no target nothing"),
        ("python -m pip install -r nothing.txt", "does not exist"),
        ("frobnicate now", "unknown program"),
    ],
)
def test_a_wrong_command_is_refused(line, problem):
    (message,) = [message for words in split(line) for message in problems(words)]
    assert problem in message
