"""Which part may know which: arrows go one way, and one module alone reads the environment."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = (
    "producer",
    "consumer",
    "spark_processor",
    "batch_processor",
    "batch_scheduler",
    "dashboard",
)
FOLDERS = ("pipeline", "feed", "local", "page", "report", "tests", "benchmarks")
#: What the modules of a folder may import of this project. Tests and benchmarks: anything.
ALLOWED = {
    "pipeline": {"pipeline"},
    "feed": {"feed", "pipeline"},
    "local": {"local", "feed", "pipeline"},
    "page": {"page", "pipeline"},
    "report": {"report", "pipeline"},
}
#: The modules that the others rest on, and what they may import of the package.
FOUNDATIONS: dict[str, set[str]] = {
    "settings": set(),
    "times": set(),
    "ingest/trade": set(),
    "metrics": {"pipeline.settings"},
}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def scripts() -> list[Path]:
    return sorted(ROOT.glob("*.py"))


def all_sources() -> list[Path]:
    return scripts() + [path for folder in FOLDERS for path in sources(folder)]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it; relative ones made absolute."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> set[str]:
    """What a file imports of this project, as module.name."""
    here = {*FOLDERS, *(script.stem for script in scripts())}
    return {name for name in imports(path) if name.split(".")[0] in here}


def test_the_walk_finds_what_is_imported() -> None:
    assert "pipeline.service.run" in ours(ROOT / "producer.py")
    assert "pipeline.settings.Settings" in ours(ROOT / "pipeline" / "metrics.py")
    assert "ast" in set(imports(Path(__file__)))


@pytest.mark.parametrize("folder", ALLOWED)
def test_arrows_go_one_way(folder: str) -> None:
    """Scripts and helpers import the package; the package imports none of them."""
    wrong = {
        (named(path), name)
        for path in sources(folder)
        for name in ours(path)
        if name.split(".")[0] not in ALLOWED[folder]
    }
    assert not wrong


def test_no_service_imports_what_stands_in_for_its_surroundings_or_another_service() -> None:
    allowed = {"pipeline"}
    wrong = {
        (named(path), name)
        for path in scripts()
        for name in ours(path)
        if name.split(".")[0] not in (allowed | {"page"} if path.stem == "dashboard" else allowed)
    }
    assert not wrong


@pytest.mark.parametrize("module", FOUNDATIONS)
def test_settings_trade_and_metrics_import_nothing_of_the_others(module: str) -> None:
    found = {".".join(n.split(".")[:2]) for n in ours(ROOT / "pipeline" / f"{module}.py")}
    assert found == FOUNDATIONS[module]


def test_no_two_modules_of_the_package_import_each_other() -> None:
    arrows = {
        path.stem: {name.split(".")[1] for name in ours(path) if name.startswith("pipeline.")}
        for path in sources("pipeline")
    }
    rest = dict(arrows)
    while rest:
        free = {name for name, needs in rest.items() if not needs & rest.keys()}
        assert free, f"these import each other: {sorted(rest)}"
        rest = {name: needs for name, needs in rest.items() if name not in free}


def environment_reads(path: Path) -> list[int]:
    """Lines that read the environment; setting a variable for a child is no reading."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    written = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    lines = []
    for node in ast.walk(tree):
        reads = isinstance(node, ast.Attribute) and node.attr in {"environ", "environb"}
        reads = reads and node not in written and ast.unparse(node).startswith("os.")
        called = isinstance(node, ast.Attribute | ast.Name) and "getenv" in ast.unparse(node)
        imported = False
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            imported = bool({alias.name for alias in node.names} & {"environ", "getenv"})
        if reads or called or imported:
            lines.append(getattr(node, "lineno", 0))
    return lines


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        ("import os\nos.environ['A'] = '1'", False),
        ("import os\nx = os.environ['A']", True),
        ("import os\nx = os.environ.get('A')", True),
        ("import os\nx = {**os.environ}", True),
        ("import os\nx = os.getenv('A')", True),
        ("from os import environ", True),
        ("from os import getenv as g", True),
        ("process.environ()", False),
    ],
)
def test_a_reading_of_the_environment_is_found(tmp_path: Path, code: str, reads: bool) -> None:
    path = tmp_path / "code.py"
    path.write_text(code)
    assert bool(environment_reads(path)) == reads


def test_settings_alone_reads_the_environment() -> None:
    services = [
        *scripts(),
        *sources("pipeline"),
        *sources("page"),
        *sources("report"),
        *sources("feed"),
    ]
    wrong = {
        f"{named(path)}:{line}"
        for path in services
        if path != ROOT / "pipeline" / "settings.py"
        for line in environment_reads(path)
    }
    assert not wrong


def test_settings_alone_knows_pydantic() -> None:
    users = {
        named(path)
        for path in all_sources()
        if "tests" not in path.parts
        if any(name.split(".")[0].startswith("pydantic") for name in imports(path))
    }
    assert users == {"pipeline/settings.py"}


def test_a_service_that_only_writes_does_not_load_pandas_or_spark() -> None:
    """60 MB and half a second for each of them."""
    light = ["producer", "consumer", "pipeline/service", "pipeline/outputs", "pipeline/settings"]
    light += [f"pipeline/ingest/{path.stem}" for path in sources("pipeline/ingest")]
    for module in light:
        found = {name.split(".")[0] for name in imports(ROOT / f"{module}.py")}
        assert not found & {"pandas", "pyspark", "numpy"}, module


def test_the_files_of_the_contract_exist() -> None:
    for service in SERVICES:
        assert (ROOT / f"{service}.py").is_file(), service
    modules = ["settings", "metrics", "spark", "outputs", "service", "health"]
    modules += ["ingest/trade", "ingest/store", "stream/finality", "batch/job", "compare/__main__"]
    for module in modules:
        assert (ROOT / "pipeline" / f"{module}.py").is_file(), module
    others = ("feed/replay.py", "feed/record.py", "feed/sample.py")
    for name in (*others, "jars/spark/pom.xml", "jars/kafka/pom.xml", "requirements.txt"):
        assert (ROOT / name).is_file(), name


def test_nothing_but_the_services_lies_at_the_top() -> None:
    assert {path.stem for path in scripts()} == set(SERVICES)


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        named(path)
        for path in all_sources()
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "dashboard"])
def test_importing_a_service_runs_nothing(service: str) -> None:
    """Only definitions and constants stand at its top; Streamlit runs the dashboard's anyway."""
    tree = ast.parse((ROOT / f"{service}.py").read_text(encoding="utf-8"))
    calls = [
        node
        for node in tree.body
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ]
    assert not calls
