"""The layout of DESIGN: what each package may import, and that every module named in text exists.

Every import counts: at the top of a module, inside a function, or as a string for `python -m`, for
`importlib` or for a child process.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
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
PACKAGES = ("pipeline", "feed", "local", "page", "report", "tests", "benchmarks", "faults")
#: Lines of the longest entry point.
ENTRY_POINT_LINES = 60

#: The modules directly in `pipeline/`, and those in these packages.
SHARED = "shared modules of pipeline"
SHARED_PACKAGES = {"metrics", "stores"}
ENTRY = "entry points"
PATHS = {SHARED, "pipeline.ingest", "pipeline.stream", "pipeline.batch"}
#: What each part may import beside itself. Tests, benchmarks and faults may import everything.
ALLOWED: dict[str, set[str]] = {
    SHARED: set(),
    "pipeline.ingest": {SHARED},
    "pipeline.stream": {SHARED},
    "pipeline.batch": {SHARED},
    "pipeline.compare": PATHS,
    "report": {"pipeline.compare", *PATHS},
    "page": {"pipeline.compare", *PATHS},
    "feed": {SHARED},
    "local": {"feed", "pipeline.compare", *PATHS},
    ENTRY: {"pipeline.compare", *PATHS},
}
#: Single modules that a part may import beyond that.
ALLOWED_MODULES: dict[str, set[str]] = {
    # Which messages of a recording are trades; the connection that the recorder reads.
    "feed": {"pipeline.ingest.trade", "pipeline.ingest.exchange_connection"},
    "pipeline.stream": {"pipeline.ingest.trade", "pipeline.ingest.kafka"},
    "pipeline.batch": {"pipeline.ingest.trade", "pipeline.ingest.store"},
}
#: Which parts start which modules by name, as processes or as the script of the page.
STARTED: dict[str, set[str]] = {
    "page": {"report.__main__"},
    "pipeline.batch": {"batch_processor"},
    "local": set(SERVICES) - {"batch_processor"},
    ENTRY: {"page.view"},
}
#: The modules that the others rest on, and all that they may import of this project.
FOUNDATIONS: dict[str, set[str]] = {
    "pipeline.addresses": set(),
    "pipeline.durations": set(),
    "pipeline.settings": {"pipeline.addresses", "pipeline.durations"},
    "pipeline.times": set(),
    "pipeline.ingest.trade": set(),
    "pipeline.metrics.definitions": {"pipeline.settings"},
    # The expected results are computed independently of the pipeline.
    "tests.golden": {"feed.recording"},
    "tests.golden.run_settings": {"tests.golden"},
    "tests.golden.run": {
        "tests.golden",
        "tests.golden.run_settings",
        "feed.recording",
        "feed.retime",  # which trades a re-timed replay has issued
    },
    "tests.golden.__main__": {"tests.golden.run", "tests.golden.run_settings", "feed.recording"},
    "faults.truth": {"feed.recording", "tests.golden"},
}

# --- reading the source -----------------------------------------------------------------------


def scripts() -> list[Path]:
    return sorted(ROOT.glob("*.py"))


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def modules() -> dict[str, Path]:
    """Every module of this project by its full name; a package has the name of its folder."""
    paths = [*scripts(), *(path for package in PACKAGES for path in sources(package))]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def part_of(module: str) -> str:
    """The part of the layout that a module belongs to."""
    if module in SERVICES:
        return ENTRY
    first, *rest = module.split(".")
    if first != "pipeline":
        return first
    is_package = modules()[".".join([first, *rest[:1]])].name == "__init__.py"
    own_part = rest and is_package and rest[0] not in SHARED_PACKAGES
    return f"pipeline.{rest[0]}" if own_part else SHARED


def imports(tree: ast.AST, package: str = "") -> Iterator[str]:
    """Every name that some code imports, wherever in it; relative ones made absolute."""
    above = package.split(".") if package else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def strings(tree: ast.AST) -> Iterator[str]:
    """Every string constant but docstrings."""
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in documentation:
            yield text


def after_dash_m(tree: ast.AST) -> Iterator[str]:
    """Every string that follows "-m" in a list, a tuple or the arguments of a call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple):
            row = node.elts
        elif isinstance(node, ast.Call):
            row = node.args
        else:
            continue
        texts = [item.value if isinstance(item, ast.Constant) else None for item in row]
        for option, name in pairwise(texts):
            if option == "-m" and isinstance(name, str):
                yield name


def by_name(tree: ast.AST) -> Iterator[str]:
    """Every module of this project that some code names in a string.

    Such a string is the dotted name of a module, the path of a script, a command that begins with
    `python -m`, the string after `-m`, or the argument of an import function.
    """
    yield from (name for name in after_dash_m(tree) if name in modules())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = ast.unparse(node.func).rpartition(".")[2]
            if function in {"import_module", "__import__", "run_module", "find_spec"}:
                yield from (str(node.args[0].value),) if node.args[0].value in modules() else ()
    for text in strings(tree):
        command = re.match(r"(?:\S*python[\d.]*)? *-m ([\w.]+)", text)
        script = re.fullmatch(r"([\w/]+)\.py", text)
        name = command[1] if command else script[1].replace("/", ".") if script else text
        if (command or "." in text) and name in modules():
            yield name


def resolve(name: str) -> str | None:
    """The module of this project that an imported name belongs to."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name or None


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


@cache
def imported_by(module: str) -> frozenset[str]:
    """The modules of this project that a module imports."""
    is_package = modules()[module].name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    found = {resolve(name) for name in imports(tree_of(module), package)}
    return frozenset(name for name in found if name and name != module)


def named_by(module: str) -> set[str]:
    """The modules of this project that a module names in strings."""
    return {name for name in by_name(tree_of(module)) if name != module}


def checked(module: str) -> bool:
    return not module.startswith(("tests", "benchmarks", "faults"))


# --- the reading itself -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pipeline.metrics", {"pipeline.metrics"}),
        ("from pipeline.stream import finality as f", {"pipeline.stream.finality"}),
        ("def f():\n    class A:\n        from pipeline import spark", {"pipeline.spark"}),
        ("from pipeline.settings import load", {"pipeline.settings"}),
        ("from . import kafka, store", {"pipeline.ingest.kafka", "pipeline.ingest.store"}),
        ("from ..stream.finality import x", {"pipeline.stream.finality"}),
        ("import ast", {None}),
    ],
)
def test_an_import_is_found_at_every_level(code: str, found: set[str | None]) -> None:
    assert {resolve(name) for name in imports(ast.parse(code), "pipeline.ingest")} == found


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("run([python, '-m', 'report', '--zip'])", {"report"}),
        ("run(python, '-m', 'pipeline.compare')", {"pipeline.compare"}),
        ("worker_process.run('page.comparison_data', x)", {"page.comparison_data"}),
        ("command = ('report.__main__',)", {"report.__main__"}),
        ("runpy.run_module('report')", {"report"}),
        ("importlib.import_module('pipeline.spark')", {"pipeline.spark"}),
        ("ROOT / 'consumer.py'", {"consumer"}),
        ("App('page/view.py')", {"page.view"}),
        ("run('python -m local.start demo', shell=True)", {"local.start"}),
        ("run(f'{sys.executable} -m report --zip', shell=True)", {"report"}),
        ("'Create it with `python -m local.topics`'", set()),
        ("'report.html', 'consumer', 'report', 'page'", set()),
        ("def f():\n    'pipeline.compare'", set()),
    ],
)
def test_a_module_named_in_a_string_is_found(code: str, found: set[str]) -> None:
    assert set(by_name(ast.parse(code))) == found


def test_every_module_belongs_to_one_part_of_the_layout() -> None:
    assert part_of("producer") == ENTRY
    assert part_of("pipeline.settings") == SHARED
    assert part_of("pipeline.ingest") == "pipeline.ingest"
    assert part_of("pipeline.ingest.trade") == "pipeline.ingest"
    assert part_of("page.charts.market") == "page"
    assert {part_of(module) for module in modules() if checked(module)} == {*ALLOWED}


# --- the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part: str) -> None:
    wrong = {
        f"{module} imports {other}"
        for module in modules()
        if part_of(module) == part
        for other in imported_by(module)
        if part_of(other) not in ALLOWED[part] | {part}
        and other not in ALLOWED_MODULES.get(part, set())
        and not (module == "dashboard" and part_of(other) == "page")
    }
    assert not wrong


@pytest.mark.parametrize("part", ALLOWED)
def test_modules_named_in_strings_follow_the_same_rules(part: str) -> None:
    wrong = {
        f"{module} names {other}"
        for module in modules()
        if part_of(module) == part
        for other in named_by(module)
        if part_of(other) not in ALLOWED[part] | {part}
        and other not in ALLOWED_MODULES.get(part, set()) | STARTED.get(part, set())
    }
    assert not wrong


def test_an_entry_point_imports_no_other() -> None:
    wrong = {(name, other) for name in SERVICES for other in imported_by(name) if other in SERVICES}
    assert not wrong


@pytest.mark.parametrize("module", FOUNDATIONS)
def test_settings_times_trade_and_metrics_rest_on_nothing_else(module: str) -> None:
    assert imported_by(module) == FOUNDATIONS[module]


def test_no_modules_import_each_other() -> None:
    """Neither two directly nor more of them in a circle."""
    rest = {module: set(imported_by(module)) for module in modules()}
    while rest:
        free = {module for module, others in rest.items() if not others & rest.keys()}
        circle = {module: sorted(others & rest.keys()) for module, others in rest.items()}
        assert free, f"these modules import each other: {circle}"
        rest = {module: others for module, others in rest.items() if module not in free}


@pytest.mark.parametrize("service", SERVICES)
def test_an_entry_point_is_short(service: str) -> None:
    assert len(modules()[service].read_text(encoding="utf-8").splitlines()) <= ENTRY_POINT_LINES


def test_nothing_but_the_entry_points_is_at_the_top() -> None:
    assert {path.stem for path in scripts()} == set(SERVICES)


def runs_at_import(statement: ast.stmt) -> bool:
    """Return whether a statement at the top level does more than import and define."""
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.ClassDef():
            return False
        case ast.If():
            condition = ast.unparse(statement.test)
            return condition not in {"TYPE_CHECKING", "__name__ == '__main__'"}
        case ast.Expr():
            return not isinstance(statement.value, ast.Constant)
        case ast.Assign(targets=[ast.Name()]):
            return any(isinstance(node, ast.Call) for node in ast.walk(statement))
    return True


@pytest.mark.parametrize(
    "code", ["start()", "settings = load()", "for x in y: pass", "with x: pass", "if x: start()"]
)
def test_a_statement_that_runs_at_import_is_found(code: str) -> None:
    assert [runs_at_import(statement) for statement in ast.parse(code).body] == [True]


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "dashboard"])
def test_importing_an_entry_point_runs_nothing(service: str) -> None:
    """Its top level holds only definitions and constants; Streamlit runs the dashboard's anyway."""
    found = [ast.unparse(node) for node in tree_of(service).body if runs_at_import(node)]
    # A batch run decides which copy of pyspark its imports find.
    assert [line for line in found if not line.startswith("sys.path[:] = ")] == []


def test_the_files_of_the_contract_exist() -> None:
    names = ["settings", "metrics.definitions", "spark", "outputs", "service", "health"]
    names += ["ingest.trade", "ingest.store", "stream.finality", "batch.job", "compare.__main__"]
    assert {f"pipeline.{name}" for name in names} <= modules().keys()
    assert {"feed.replay", "feed.record", "feed.sample"} <= modules().keys()
    for name in ("jars/spark/pom.xml", "jars/kafka/pom.xml", "requirements.txt"):
        assert (ROOT / name).is_file(), name


def test_the_lock_files_have_every_required_version_and_a_hash_for_each_package() -> None:
    for name in ("requirements", "requirements-dev", "requirements-audit"):
        lock = (ROOT / f"{name}.txt").read_text(encoding="utf-8")
        packages = re.findall(r"^([\w.-]+==[\w.]+)(.*?)(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
        assert packages
        assert not [package for package, rest in packages if "--hash=sha256:" not in rest]
        wanted = (ROOT / f"{name}.in").read_text(encoding="utf-8")
        required = re.findall(r"^[\w.-]+==[\w.]+", wanted, re.MULTILINE)
        locked = {package.lower() for package, _ in packages}
        assert {package.lower() for package in required} <= locked


def test_every_module_has_a_docstring() -> None:
    missing = [
        module
        for module, path in modules().items()
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(tree_of(module))
    ]
    assert not missing


# --- names in text ----------------------------------------------------------------------------


@cache
def texts() -> dict[str, str]:
    """Every text file that a person wrote, by its path."""
    patterns = ["*.py", "*.md", "*.yml", "*.toml", "Makefile", "Dockerfile", ".ci/run"]
    patterns += ["docs/**/*.md", "data/sample/*.md", "jars/*/pom.xml"]
    patterns += [f"{package}/**/*{end}" for package in PACKAGES for end in (".py", ".txt", ".j2")]
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }


def is_this_file(name: str) -> bool:
    return ROOT / name == Path(__file__).resolve()


def runs_as_a_module(module: str) -> bool:
    if f"{module}.__main__" in modules():
        return True
    path = modules().get(module)
    return path is not None and 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_every_module_that_a_text_runs_by_name_exists() -> None:
    """`python -m NAME` in the Makefile, Dockerfile, Compose files, docs, help texts and code."""
    pattern = re.compile(rf"-m (?:pytest )?((?:{'|'.join(PACKAGES)})(?:\.[a-z_]+)*)\b(?![/\w])")
    found = {
        (file, module)
        for file, text in texts().items()
        if not is_this_file(file)
        for module in pattern.findall(text)
    }
    assert len(found) > 10
    assert not {where for where in found if not runs_as_a_module(where[1])}


def test_every_module_that_code_runs_by_name_exists() -> None:
    found = {
        (module, name)
        for module in modules()
        if not is_this_file(str(modules()[module].relative_to(ROOT)))
        for name in after_dash_m(tree_of(module))
        if name.split(".")[0] in PACKAGES
    }
    assert found
    assert not {where for where in found if not runs_as_a_module(where[1])}


def test_every_dotted_name_in_a_string_is_a_module() -> None:
    pattern = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.[a-z_]+)+")
    files = {"html", "md", "zip", "csv", "json", "txt"}
    found = {
        (module, text)
        for module in modules()
        if checked(module)
        for text in strings(tree_of(module))
        if pattern.fullmatch(text) and text.rpartition(".")[2] not in files
    }
    assert found
    assert not {where for where in found if where[1] not in modules()}


def test_every_source_file_that_code_names_exists() -> None:
    """In comments, docstrings, the Makefile, the Dockerfile and the Compose files.

    `tests/unit/test_docs_paths.py` checks the documentation.
    """
    folder = rf"(?<![\w/.-])((?:{'|'.join(PACKAGES)})/[\w/]+\.(?:py|txt|css|j2))\b"
    file_names = {path.name for path in modules().values()}
    wrong = set()
    for file, text in texts().items():
        if is_this_file(file) or file.endswith(("test_docs_paths.py", ".md")):
            continue
        wrong |= {(file, path) for path in re.findall(folder, text) if not (ROOT / path).is_file()}
        wrong |= {(file, n) for n in re.findall(r"`([a-z_]+\.py)`", text) if n not in file_names}
    assert not wrong


# --- what single modules may use --------------------------------------------------------------


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


def test_only_settings_and_the_module_for_child_processes_read_the_environment() -> None:
    """`local` runs before the settings are loaded and makes the environment of all others."""
    readers = {"pipeline.settings", "pipeline.environment"}
    wrong = {
        f"{module}:{line}"
        for module, path in modules().items()
        if checked(module) and part_of(module) != "local" and module not in readers
        for line in environment_reads(path)
    }
    assert not wrong


def test_only_settings_imports_pydantic() -> None:
    users = {
        module
        for module in modules()
        if not module.startswith("tests.")
        if any(name.split(".")[0].startswith("pydantic") for name in imports(tree_of(module)))
    }
    assert users == {"pipeline.settings"}


@pytest.mark.parametrize("module", ["producer", "consumer", "pipeline.health", "local.topics"])
def test_a_process_that_only_writes_loads_neither_pandas_nor_spark(module: str) -> None:
    """Each of them costs 60 MB and half a second."""
    code = f"import sys, {module}; print({{'pandas', 'pyspark', 'numpy'}} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
