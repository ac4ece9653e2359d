"""The house style, as tests: what can be counted is counted here, and each rule has a control that it must flag."""

import ast
import io
import re
import statistics
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "flux"
MODULES = sorted(PACKAGE.rglob("*.py"))

MODULE_LINES, FUNCTION_LINES, POSITIONAL_PARAMETERS, PACKAGE_LINES, STORE_METHODS = 500, 70, 7, 15_000, 25
EDGES, EDGE_LINES = {"cli", "api"}, 6_000
# The composition root, and what few programs need; below cli/ as well.
LATE_IMPORTS_ALLOWED = {"app.py", "codec.py", "recorded.py"}
# Imported by users, by `python -m`, by the installed command, by pytest, or by a child process.
ENTRY_POINTS = {
    *("flux", "flux.__main__", "flux.cli.main", "flux.domain", "flux.engine.process_child", "flux.testing.plugin")
}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "managers", "misc"}
MADE_BY_TOOLS = {".venv", ".git", "__pycache__", ".hypothesis", ".mypy_cache", ".ruff_cache"}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
LEFTOVERS = re.compile("TO" + "DO|FIX" + "ME|X" + "XX|HA" + "CK")
MACHINE_PATHS = re.compile(r"(?<![\w./])/(?:home|Users|work|root)/[a-z.]")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def long_functions(source: str) -> list[str]:
    return [f.name for f in functions(ast.parse(source)) if f.end_lineno - f.lineno + 1 > FUNCTION_LINES]


def crowded_functions(source: str) -> list[str]:
    return [
        f.name
        for f in functions(ast.parse(source))
        if len([a for a in f.args.posonlyargs + f.args.args if a.arg not in {"self", "cls"}]) > POSITIONAL_PARAMETERS
    ]


def late_imports(source: str) -> list[int]:
    return [
        node.lineno
        for function in functions(ast.parse(source))
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def imports(source: str, importer: str) -> set[str]:
    """The dotted names that a module imports, and those that a `from` may mean."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found - {importer}


def is_vague(module: str) -> bool:
    return bool({part.strip("_") for part in module.split(".")} & VAGUE_NAMES)


def tracked_texts() -> list[Path]:
    answer = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if answer.returncode:  # No repository: an unpacked archive, for instance.
        return [path for path in ROOT.rglob("*") if path.is_file() and not set(path.parts) & MADE_BY_TOOLS]
    return [ROOT / line for line in answer.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for_and_fits_a_sitting(path):
    source = path.read_text("utf-8")

    assert ast.get_docstring(ast.parse(source)), f"{path} has no docstring"
    assert source.count("\n") <= MODULE_LINES
    assert not is_vague(name_of(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_fits_a_screen_and_takes_few_positions(path):
    source = path.read_text("utf-8")

    assert long_functions(source) == []
    assert crowded_functions(source) == []


def test_the_size_rules_flag_what_they_are_for():
    long = "def f():\n" + "    x = 1\n" * FUNCTION_LINES

    assert long_functions(long) == ["f"]
    assert crowded_functions("def g(a, b, c, d, e, f, h, i): ...") == ["g"]
    assert is_vague("flux.store._utils")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_stand_at_the_top(path):
    allowed = path.name in LATE_IMPORTS_ALLOWED or path.parent.name == "cli"

    assert allowed or late_imports(path.read_text("utf-8")) == []


def test_a_late_import_is_flagged():
    assert late_imports("def f():\n    import os") == [2]


def dead_modules(sources: dict[str, str]) -> set[str]:
    used = set().union(*(imports(source, name) for name, source in sources.items()))
    return {name for name in sources if name not in used} - ENTRY_POINTS


def test_no_module_is_dead():
    sources = {name_of(path): path.read_text("utf-8") for path in MODULES}
    packages = {name_of(path) for path in MODULES if path.name == "__init__.py"}

    assert dead_modules(sources) - packages == set()


def test_a_dead_module_is_flagged():
    assert dead_modules({"flux.a": "import flux.b", "flux.b": ""}) == {"flux.a"}


def dead_statements(names: set[str], code: str) -> set[str]:
    return {name for name in names if f'"{name}"' not in code}


def test_no_statement_of_sql_is_dead():
    code = "".join(path.read_text("utf-8") for path in (PACKAGE / "store").glob("*.py"))
    statements = {path.stem for path in (PACKAGE / "store" / "sqlite").glob("*.sql")} - {"schema"}

    assert statements
    assert dead_statements(statements, code) == set()


def test_a_dead_statement_is_flagged():
    assert dead_statements({"find_it", "find"}, 'run("find_it")') == {"find"}


def code_lines(source: str) -> int:
    """The lines that hold code: neither blank, nor comment, nor docstring (docs/decisions/0009)."""
    explained: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match getattr(node, "body", None):
            case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
                explained |= set(range(docstring.lineno, docstring.end_lineno + 1))
    held = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(held - explained)


def test_the_package_stays_small():
    """What is below the edges, and the edges, each (docs/decisions/0013)."""
    sources = [path.read_text("utf-8") for path in MODULES]
    lines = {path: code_lines(source) for path, source in zip(MODULES, sources, strict=True)}
    of_edges = sum(count for path, count in lines.items() if path.relative_to(PACKAGE).parts[0] in EDGES)

    assert sum(lines.values()) - of_edges <= PACKAGE_LINES
    assert of_edges <= EDGE_LINES
    assert statistics.median(source.count("\n") for source in sources) <= 150


def test_what_explains_the_code_is_not_counted():
    source = '"""Doc."""\n\n\n# Why.\ndef f():\n    """Doc\n    of f."""\n    return """a\n    b"""\n'

    assert code_lines(source) == 3


def test_a_store_has_few_methods():
    tree = ast.parse((PACKAGE / "ports.py").read_text("utf-8"))
    store = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Store")

    assert 0 < len(functions(store)) <= STORE_METHODS


def test_nothing_is_left_open_in_the_code():
    assert [path for path in MODULES if LEFTOVERS.search(path.read_text("utf-8"))] == []
    assert LEFTOVERS.search("# TO" + "DO: later")


def test_no_tracked_text_names_a_place_of_one_machine():
    found = []
    assert ROOT / "pyproject.toml" in tracked_texts()
    for path in tracked_texts():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if MACHINE_PATHS.search(text):
            found.append(path)

    assert found == []
    assert MACHINE_PATHS.search("see /ho" + "me/ada/flux")
