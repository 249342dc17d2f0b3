"""Every file, link and Python module that the documentation names exists."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data/sample/README.md"])
#: The folders of the repository; a path that begins with another name is an output of a run.
FOLDERS = (
    "benchmarks|docs|faults|feed|jars|local|page|pipeline|report|tests|data/sample|\\.streamlit"
)


def code_spans(text: str) -> list[str]:
    """The text between backticks, code blocks included."""
    return re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)


def paths_named(text: str) -> set[str]:
    """The repository paths in the code spans: scripts, and what lies in one of the folders."""
    spans = "\n".join(code_spans(text))
    in_folders = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./*-]*)", spans)
    scripts = re.findall(r"(?<![\w/.<-])([a-z_]+\.py)\b", spans)
    return {*in_folders, *scripts}


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_module_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name in paths_named(text):
        assert any(ROOT.glob(name.rstrip("/"))), f"{name} does not exist"
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (document.parent / target).exists(), f"the link {target} leads nowhere"
    for module in re.findall(r"python3? -m ([a-z][\w.]+)", text):
        place = ROOT / module.replace(".", "/")
        ours = (ROOT / module.split(".")[0]).is_dir()
        assert not ours or place.is_dir() or place.with_suffix(".py").is_file(), module


def test_the_search_finds_paths_in_code_and_ignores_outputs_of_a_run() -> None:
    text = "`producer.py` writes `stream_csv/2025-07-01.csv`; see `pipeline/batch/`, `tests/a.py`."
    assert paths_named(text) == {"producer.py", "pipeline/batch/", "tests/a.py"}
