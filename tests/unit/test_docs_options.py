"""Every option, argument, `make` target, variable and setting is documented, and nothing else is.

docs/commands.md has the programs, the README the settings and the targets and variables of `make`.
"""

import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
from streamlit import config as streamlit_config

from pipeline.settings import Settings
from tests.conftest import ROOT
from tests.unit.test_environment import OF_OTHER_PROGRAMS

COMMANDS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
HELP = (ROOT / "local" / "help.txt").read_text(encoding="utf-8")
COMPOSE = [path.read_text(encoding="utf-8") for path in ROOT.glob("docker-compose*.yml")]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data/sample/README.md"])

#: The services and the page. They have settings and no options; the README describes them.
SERVICES = {"producer", "consumer", "spark_processor", "batch_scheduler", "dashboard"}
#: Other programs start these. They cannot be used alone.
INTERNAL = {
    *("local.supervise", "page.downloads", "page.view", "tests.integration.impatient_feed"),
    *("benchmarks.scripts.poll", "benchmarks.scripts.send"),
}
#: Programs that take arguments without argparse, and their arguments.
PLAIN_ARGUMENTS = {
    "pipeline.health": {"NAME", "DATA_DIR"},
    "pipeline.http_health": {"PORT", "PATH"},
    "pipeline.batch.archive": set[str](),
    "local.archives": set[str](),
    "local.prerequisites": {"java", "mvn"},
}
#: Which program a target of `make` gives its ARGS to.
ARGS_OF = {
    "report": "report",
    "bench": "benchmarks",
    "bench-growth": "benchmarks.growth",
    "bench-peers": "benchmarks.peers",
    "bench-scale": "benchmarks.scale",
    "faults": "faults",
    "soak": "faults.soak",
    "screenshots": "tests.screenshots",
}


def programs() -> set[str]:
    """Every module that runs as a program, by its name for `python -m`."""
    found = set()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*/**/*.py")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        hidden = name.startswith((".", "data.")) or path.name.startswith("test_")
        if not hidden and '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8"):
            found.add(name.removesuffix(".__main__"))
    return found


@cache
def sections() -> dict[str, str]:
    """The section of each program in docs/commands.md, its heading included."""
    found = {}
    for section in re.split(r"^(?=##+ )", COMMANDS, flags=re.MULTILINE):
        heading = section.partition("\n")[0]
        for name in re.findall(r"`(?:python3? -m )?([a-z][\w.]*?)(?:\.py)?[ `]", heading):
            found[name] = section
    return found


def documented_options(name: str) -> set[str]:
    cells = re.findall(r"^\| (`-.*?) \|", sections()[name], re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"--[a-z-]+", cell)}


@cache
def help_of(name: str) -> str:
    """What the program prints for --help."""
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, "--help"])
        patch.setattr(sys.stdout, "write", printed.append)
        with pytest.raises(SystemExit) as end:
            runpy.run_module(name, run_name="__main__", alter_sys=False)
    assert not end.value.code
    return "".join(printed)


def options_in(text: str) -> set[str]:
    """The options in the text that argparse prints for --help."""
    lines = re.findall(r"^  (-.*?)(?:  .*)?$", text, re.MULTILINE)
    return {option for line in lines for option in re.findall(r"--[a-z-]+", line)} - {"--help"}


def arguments_in(text: str) -> set[str]:
    """The positional arguments in the text that argparse prints; choices are arguments too."""
    part = text.partition("positional arguments:\n")[2].partition("\noptions:")[0]
    names = re.findall(r"^  (\S+)", part, re.MULTILINE)
    return {choice for name in names for choice in name.strip("{}").split(",")}


WITH_OPTIONS = sorted(programs() - SERVICES - INTERNAL - PLAIN_ARGUMENTS.keys())


@pytest.fixture
def plain_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


# --- programs -----------------------------------------------------------------------------------


def test_every_program_is_documented_and_every_documented_program_exists() -> None:
    assert {*WITH_OPTIONS, *PLAIN_ARGUMENTS} == sections().keys()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.usefixtures("plain_help")
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_the_documented_options_are_those_of_the_program(name: str) -> None:
    assert documented_options(name) == options_in(help_of(name))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.usefixtures("plain_help")
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_every_positional_argument_is_in_the_heading_of_its_program(name: str) -> None:
    heading = sections()[name].partition("\n")[0].lower()
    found = arguments_in(help_of(name))
    choices = found if name == "tests.page_data" else set()  # the scenarios of the page's tests
    missing = {word for word in found - choices if not re.search(rf"\b{word.lower()}\b", heading)}
    assert not missing


@pytest.mark.parametrize("name", PLAIN_ARGUMENTS)
def test_the_arguments_of_programs_without_options_are_documented(name: str) -> None:
    heading = sections()[name].partition("\n")[0]
    spans = re.findall(rf"`python3? -m {re.escape(name)}(.*?)`", heading)
    assert {word for span in spans for word in span.split()} == PLAIN_ARGUMENTS[name]
    assert not documented_options(name)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.usefixtures("plain_help")
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_every_option_and_argument_has_a_help_text(name: str) -> None:
    part = help_of(name).partition("\n\n")[2]
    entries = re.findall(r"^  (\S.*)\n((?:    +\S.*\n?)*)", part, re.MULTILINE)
    assert entries
    silent = [entry for entry, below in entries if "  " not in entry.strip() and not below]
    assert not silent


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
@pytest.mark.usefixtures("plain_help")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_option_in_an_example_exists(document: Path) -> None:
    """In lines such as `python -m feed.record FILE --seconds 60` or `make bench ARGS=--quick`."""
    text = document.read_text(encoding="utf-8")
    uses = re.findall(r"python3? -m ([a-z][\w.]+)([^`#\n]*)", text)
    uses += [
        (ARGS_OF[target], arguments)
        for target, arguments in re.findall(r"make ([\w-]+) ARGS=(\S+|\"[^\"]*\")", text)
        if target in ARGS_OF
    ]
    for name, rest in uses:
        used = set(re.findall(r"--[a-z-]+", rest))
        if used and name in WITH_OPTIONS:
            assert used <= options_in(help_of(name)), name


# --- make ---------------------------------------------------------------------------------------


def make_targets() -> set[str]:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE.replace("\\\n", " "), re.MULTILINE)
    assert phony
    return {target for target in phony[1].split() if not target.startswith("need-")}


def make_variables() -> dict[str, str]:
    found = re.findall(r"^([A-Z_]+) \?= ?(.*)$", MAKEFILE, re.MULTILINE)
    assert len(found) > 8
    return dict(found) | {"ARGS": ""}


def make_section() -> str:
    return README.partition("## `make` targets and variables")[2].partition("\n## ")[0]


def test_the_readme_lists_exactly_the_targets_of_make() -> None:
    assert set(re.findall(r"`make ([a-z-]+)`", make_section())) == make_targets()


def test_make_help_lists_exactly_the_targets_of_make() -> None:
    assert set(re.findall(r"^make ([a-z-]+)  ", HELP, re.MULTILINE)) == make_targets()


def test_the_readme_lists_exactly_the_variables_of_make_with_their_defaults() -> None:
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) ?\| .+ \|$", make_section(), re.MULTILINE)
    found = {}
    for names, defaults in rows:
        for name, default in zip(names.split(", "), (defaults or "``").split(", "), strict=True):
            found[name.strip("`")] = default.strip("`")
    assert found == make_variables()


def test_make_help_lists_exactly_the_variables_of_make_with_their_defaults() -> None:
    assert dict(re.findall(r"^([A-Z_]+)=(\S*)  ", HELP, re.MULTILINE)) == make_variables()


# --- settings -----------------------------------------------------------------------------------


def compose_variables() -> set[str]:
    return {name for text in COMPOSE for name in re.findall(r"(?<!\$)\$\{([A-Z_]+)", text)}


def test_the_readme_describes_every_variable_of_compose() -> None:
    assert compose_variables() <= set(re.findall(r"`([A-Z][A-Z_]+)`", README))


def test_every_variable_that_a_document_names_exists() -> None:
    """Settings, variables of `make`, Compose, Streamlit, the CI script and other programs."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    known = {name.upper() for name in Settings.model_fields} | make_variables().keys()
    known |= compose_variables() | set(re.findall(r"\b(CI(?:_[A-Z]+)?)\b", script))
    streamlit_config.get_config_options()
    known |= {option.env_var for option in (streamlit_config._config_options or {}).values()}
    known |= set(OF_OTHER_PROGRAMS)
    for path in (ROOT / "pipeline").rglob("*.py"):  # constants in the code
        known |= set(re.findall(r"^([A-Z][A-Z_]+)\b", path.read_text("utf-8"), re.MULTILINE))
    for document in (README, COMMANDS, CONTRIBUTING):
        named = re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", document)
        unknown = {name for name in named if name not in known}
        assert not unknown
