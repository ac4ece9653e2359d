"""What users can meet is documented: each kind of name is collected from the code and looked for in its page."""

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

import flux
import flux.errors
import flux.tasks
from docs import cli_reference
from docs.running import DOCUMENTS, ROOT
from flux.cli.main import application
from flux.settings import Settings
from flux.task import Task, TaskOptions
from flux.workflow import Workflow, WorkflowOptions

MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:home|Users|work|root|tmp|private)/")


def text_of(*names: str) -> str:
    return "\n".join((ROOT / name).read_text("utf-8") for name in names)


def in_code(text: str) -> set[str]:
    """The words that stand in `code` of a document, outside its blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", prose)
    return {word for span in spans for word in re.findall(r"\w+", span)} | set(spans)


def rows_of(text: str) -> dict[str, str]:
    """The rows of the tables of a document that begin with `code`, by that code."""
    rows = re.findall(r"^\| `([^`]+)`[^|\n]*\|(.*)\|$", text, flags=re.MULTILINE)
    return dict(rows)


def missing(names: Iterable[str], documented: Iterable[str]) -> list[str]:
    return sorted(set(names) - set(documented))


# -- settings


def wrong_settings(defaults: dict[str, object], text: str) -> list[str]:
    rows = rows_of(text)
    return [
        name
        for name, default in defaults.items()
        if f"`FLUX_{name.upper()}` | `{default}`" not in rows.get(name, "") or not rows[name].rpartition("|")[2].strip()
    ]


def test_every_setting_is_documented_with_its_variable_and_default():
    defaults = {field.name: field.default for field in fields(Settings)}

    assert wrong_settings(defaults, text_of("docs/settings.md")) == []


def test_a_setting_without_a_row_or_with_another_default_is_flagged():
    text = "| `a` | `FLUX_A` | `1.0` | What it does. |\n| `b` | `FLUX_B` | `2.0` | |"

    assert wrong_settings({"a": 1.0}, text) == []
    assert wrong_settings({"a": 2.0, "b": 2.0, "c": 3.0}, text) == ["a", "b", "c"]


# -- commands and options


def commands(command: Any, path: str) -> dict[str, list[str]]:
    """Each command with its options."""
    options = [max(parameter.opts, key=len) for parameter in command.params if parameter.param_type_name == "option"]
    found = {path: options}
    for name, each in getattr(command, "commands", {}).items():
        found |= commands(each, f"{path} {name}")
    return found


def undocumented_commands(found: dict[str, list[str]], text: str) -> list[str]:
    """Options of `flux` itself may stand anywhere; those of a command in the section that is headed by it."""
    sections = {part.partition("\n")[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)}
    wrong = []
    for path, options in found.items():
        section = next((part for head, part in sections.items() if head.startswith(f"`{path} ")), None)
        is_group = any(other.startswith(f"{path} ") for other in found)
        if section is None and not is_group:
            wrong.append(path)
        wrong += [f"{path} {option}" for option in options if option not in (text if is_group else section or "")]
    return wrong


def test_every_command_and_option_is_documented():
    found = commands(typer.main.get_command(application), "flux")
    text = text_of("docs/cli.md", "README.md")

    assert {"flux run", "flux executions list", "flux executions show", "flux executions resume"} <= set(found)
    assert undocumented_commands(found, text) == []


def test_a_command_or_an_option_without_a_word_is_flagged():
    found = {"flux": ["--all"], "flux go": ["--fast", "--far"], "flux stop": []}
    text = "--all\n## `flux go [--fast]`\n\nGoes.\n## Others\n--far"

    assert undocumented_commands(found, text) == ["flux go --far", "flux stop"]


def unknown_commands(found: dict[str, list[str]], text: str) -> list[str]:
    """What is headed as a command or as its option, and is none."""
    wrong = []
    for head in re.findall(r"^## `(flux [^`]+)`", text, flags=re.MULTILINE):
        path = next((path for path in sorted(found, key=len, reverse=True) if f"{head} ".startswith(f"{path} ")), "")
        wrong += [path or head] if path in {"", "flux"} else []
        known = {*found.get(path, ()), *(f"--no-{option[2:]}" for option in found.get(path, ()))}
        wrong += [f"{path} {option}" for option in re.findall(r"--[a-z-]+", head) if option not in known]
    return wrong


def test_no_command_and_no_option_is_documented_that_is_none():
    assert unknown_commands(commands(typer.main.get_command(application), "flux"), text_of("docs/cli.md")) == []


def test_the_reference_of_the_command_line_is_that_of_the_code():
    assert text_of("docs/cli_reference.md") == cli_reference.document(), (
        "write it anew: python tests/docs/cli_reference.py > docs/cli_reference.md"
    )


def test_a_command_or_an_option_that_is_gone_is_flagged():
    found = {"flux": ["--all"], "flux go": ["--fast"], "flux go on": ["--far"]}
    text = "## `flux go A [--fast] [--slow N]`\n## `flux go on [--far]`\n## `flux stop [--now]`\n"

    assert unknown_commands(found, text) == ["flux go --slow", "flux", "flux --now"]


# -- errors


def test_every_error_class_is_documented():
    errors = [name for name, _ in inspect.getmembers(flux.errors, inspect.isclass)]

    assert len(errors) > 10
    assert missing(errors, rows_of(text_of("docs/errors.md"))) == []


def test_an_error_class_without_a_row_is_flagged():
    assert missing(["ThisError", "ThatError"], rows_of("| `ThisError` | | When. | Do. |\n`ThatError`")) == ["ThatError"]


# -- telemetry


def emitted(source: str) -> dict[str, set[str]]:
    """The events that a module emits, with the names of their fields."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    emits = [call for call in calls if ast.unparse(call.func) == "telemetry.emit"]
    return {ast.literal_eval(call.args[0]): {str(keyword.arg) for keyword in call.keywords} for call in emits}


def undocumented_events(events: dict[str, set[str]], text: str) -> list[str]:
    rows = rows_of(text)
    return [
        name
        for name, its_fields in sorted(events.items())
        if name not in rows or not its_fields <= set(re.findall(r"`(\w+)`", rows[name]))
    ]


def all_emitted() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "src" / "flux").rglob("*.py"):
        found |= emitted(path.read_text("utf-8"))
    return found


def test_every_telemetry_event_is_documented_with_its_fields():
    assert all_emitted()
    assert undocumented_events(all_emitted(), text_of("docs/telemetry.md")) == []


def test_no_telemetry_event_is_documented_that_is_not_emitted():
    documented = [name for name in rows_of(text_of("docs/telemetry.md")) if "." in name]

    assert missing(documented, all_emitted()) == []


def test_an_event_or_a_field_without_a_word_is_flagged():
    source = "telemetry.emit('a.begun', one=1)\ntelemetry.emit('b.begun', one=1, two=2)\ntelemetry.emit('c.begun')"
    text = "| `a.begun` | `one` | |\n| `b.begun` | `one` | |"

    assert undocumented_events(emitted(source), text) == ["b.begun", "c.begun"]


# -- the Python API

PUBLIC = {
    "flux": flux.__all__,
    "flux.tasks": flux.tasks.__all__,
    "options of tasks": TaskOptions.__annotations__,
    "options of workflows": WorkflowOptions.__annotations__,
    "tasks": [name for name in dir(Task) if not name.startswith("_")],
    "workflows": [name for name in dir(Workflow) if not name.startswith("_")],
    "contexts": [name for name in dir(flux.ExecutionContext) if not name.startswith("_")],
    "states": [state.value for state in flux.ExecutionState],
    "types of events": [type_.value for type_ in flux.ExecutionEventType],
}


@pytest.mark.parametrize("group", PUBLIC)
def test_every_public_name_is_documented(group: str):
    assert missing(PUBLIC[group], in_code(text_of("docs/api.md"))) == []


def test_a_public_name_that_is_only_a_word_of_the_prose_is_flagged():
    text = "Use now and `flux.tasks`.\n```python\nlater()\n```\n`sleep(1)` and `@task` are fine."

    assert missing(["now", "later", "sleep", "task"], in_code(text)) == ["later", "now"]


# -- links and paths


def broken_links(path: Path, text: str) -> list[str]:
    """Links to files that are not there, or to headings that the file has not."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        if not other.exists() or (anchor and anchor not in anchors(other.read_text("utf-8"))):
            broken.append(target)
    return broken


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere_and_no_path_is_of_one_machine(path: Path):
    text = path.read_text("utf-8")

    assert broken_links(path, text) == []
    assert MACHINE_PATHS.findall(text) == []


def test_a_broken_link_and_a_machine_path_are_flagged(tmp_path: Path):
    here = tmp_path / "here.md"
    here.write_text("# A head\n", "utf-8")
    text = "[a](here.md) [b](here.md#a-head) [c](gone.md) [d](#other)"

    assert broken_links(here, text) == ["gone.md", "#other"]
    assert MACHINE_PATHS.search("in /tm" + "p/x")


def test_the_readme_is_short_and_says_how_to_try_it():
    text = text_of("README.md")

    assert text.count("\n") < 200
    assert "make demo" in text
    assert "make test" in text


def test_every_page_is_reached_from_the_readme():
    linked, queue = set(), [ROOT / "README.md"]
    while queue:
        path = queue.pop()
        linked.add(path)
        files = re.findall(r"\]\(([^)\s#]+\.md)", path.read_text("utf-8"))
        queue += [other for f in files if (other := (path.parent / f).resolve()) not in linked]

    assert missing(map(str, DOCUMENTS), map(str, linked)) == []
