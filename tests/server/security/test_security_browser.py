"""A page of another site, in a real browser, changes nothing on a server of this machine, however it tries."""

import dataclasses
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from flux.api.guard import Guard
from server.security.hostile import Harmed, serving, twofold

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WHY = "there is no Chromium: `make test` installs Debian's as root; elsewhere, install it to run this"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason=WHY),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:playwright"),
]

# What would change something if it came from the user: method, path, body.
TARGETS = [
    ("POST", "/api/workflows/twofold/executions", '{"input": "evil"}'),
    ("POST", "/api/executions/paused/resume", '{"input": "evil"}'),
    ("POST", "/api/executions/paused/signal", '{"name": "evil"}'),
    ("POST", "/api/executions/paused/cancel", ""),
    ("POST", "/api/executions/paused/fork", '{"seq": 1}'),
    ("POST", "/api/bulk", '{"action": "cancel", "execution_ids": ["paused"]}'),
    ("POST", "/api/tokens", '{"name": "evil", "role": "admin"}'),
    ("DELETE", "/api/tokens/viewer", ""),
    ("PUT", "/api/secrets/EVIL", '{"value": "evil-evil"}'),
]
KINDS = [None, "text/plain", "application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]

# Each gives a promise that ends when the attempt has, however it has.
ATTACKS = """
const settled = (element, parent) => new Promise(done => {
    element.onload = element.onerror = done; (parent || document.body).append(element); setTimeout(done, 1500);
});
const by = {
    fetch: a => fetch(a.url, {method: a.method, mode: a.mode, body: a.body || undefined, credentials: "include",
                              headers: a.kind ? {"Content-Type": a.kind} : {}}),
    own_header: a => fetch(a.url, {method: a.method, headers: {"X-Flux": "1"}, body: a.body || undefined}),
    xhr: a => new Promise(done => {
        const request = new XMLHttpRequest();
        request.onloadend = done; request.open(a.method, a.url); request.withCredentials = true;
        if (a.kind) request.setRequestHeader("Content-Type", a.kind);
        request.send(a.body);
    }),
    beacon: async a => navigator.sendBeacon(a.url, a.kind ? new Blob([a.body], {type: a.kind}) : a.body),
    form: a => {
        const frame = Object.assign(document.createElement("iframe"), {name: "f" + Math.random()});
        document.body.append(frame);
        const form = Object.assign(document.createElement("form"),
            {action: a.url, method: a.method, enctype: a.kind, target: frame.name});
        const cut = a.body.lastIndexOf('"');  // NAME=VALUE is then JSON: {"input": "evil=..."}.
        form.append(Object.assign(document.createElement("input"),
            {name: a.body.slice(0, cut), value: a.body.slice(cut)}));
        document.body.append(form);
        return new Promise(done => { frame.onload = done; form.submit(); setTimeout(done, 1500); });
    },
    image: a => settled(Object.assign(new Image(), {src: a.url})),
    script: a => settled(Object.assign(document.createElement("script"), {src: a.url})),
    style: a => settled(Object.assign(document.createElement("link"), {rel: "stylesheet", href: a.url}), document.head),
    frame: a => settled(Object.assign(document.createElement("iframe"), {src: a.url})),
    events: a => new Promise(done => {
        const source = new EventSource(a.url, {withCredentials: true});
        source.onopen = source.onerror = () => { source.close(); done(source.readyState); };
    }),
    socket: a => new Promise(done => {
        const socket = new WebSocket(a.url.replace("http", "ws"));
        socket.onopen = socket.onerror = socket.onclose = done;
    }),
};
async attempts => {
    await Promise.all(attempts.map(a => Promise.resolve().then(() => by[a.way](a)).catch(() => null)));
    await new Promise(done => setTimeout(done, 200));  // A beacon tells nobody when it is there.
}
"""


def attempts(base: str) -> list[dict[str, Any]]:
    """Everything that a page can send there."""
    made = []
    for method, path, body in TARGETS:
        target = {"url": base + path, "method": method, "body": body, "kind": None, "mode": "cors"}
        made += [{**target, "way": "fetch", "mode": mode} for mode in ("cors", "no-cors", "same-origin")]
        made += [{**target, "way": "fetch", "kind": kind, "mode": "no-cors"} for kind in KINDS if body and kind]
        made += [{**target, "way": "fetch", "kind": "application/json"}, {**target, "way": "own_header"}]
        made += [{**target, "way": "xhr", "kind": kind} for kind in ("text/plain", "application/json")]
        made += [{**target, "way": "beacon", "kind": kind} for kind in KINDS[:2]]
        forms = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
        made += [{**target, "way": "form", "method": "post", "kind": kind} for kind in forms]
        made += [{**target, "way": "form", "method": "get", "kind": forms[1]}]
        made += [
            {**target, "way": "fetch", "method": other, "body": ""} for other in ("GET", "HEAD", "PATCH", "OPTIONS")
        ]
        made += [{**target, "way": way} for way in ("image", "script", "style", "frame", "events", "socket")]
    return made


@dataclasses.dataclass
class Target:
    """A server on loopback, and what came to it."""

    harmed: Harmed
    port: int
    arrived: list[tuple[str, str, str]]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def facts(self) -> list[str]:
        """Everything in the database, but for the heartbeat of this process."""
        with closing(sqlite3.connect(self.harmed.app.settings.database)) as connection:
            return [line for line in connection.iterdump() if '"workers"' not in line]


@pytest.fixture
def target(harmed) -> Iterator[Target]:
    harmed.app.run(twofold.definition, 1, "paused")
    harmed.app.secrets.save("KEPT", "kept-kept-kept")
    arrived: list[tuple[str, str, str]] = []
    guarded = harmed.open

    async def counted(scope, receive, send):
        if scope["type"] != "lifespan":
            headers = dict(scope["headers"])
            arrived.append((scope.get("method", scope["type"]), scope["path"], headers.get(b"host", b"").decode()))
        await guarded(scope, receive, send)

    with serving(counted) as (port, _):
        yield Target(harmed, port, arrived)


@contextmanager
def page_at(url: str):
    """A page at this address, which is made up: names of `.test` are this machine."""
    from playwright.sync_api import sync_playwright

    arguments = [
        "--host-resolver-rules=MAP *.test 127.0.0.1",
        # What is tested is the server, not what some browsers keep from it.
        "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            page = browser.new_page()
            empty = "<!doctype html><title>page</title><body></body>"
            page.route(url, lambda route: route.fulfill(body=empty, content_type="text/html"))
            page.goto(url)
            yield page
        finally:
            browser.close()


def test_a_page_of_another_origin_changes_nothing_however_it_asks(target):
    before, made = target.facts(), attempts(target.base)
    with page_at("http://evil.test/page") as page:
        page.evaluate(ATTACKS, made)

    assert len(made) >= 50
    assert target.facts() == before
    came = {(method, path) for method, path, _ in target.arrived}
    assert len(target.arrived) >= 50, "the browser itself held them back: this proved less than it says"
    assert {("POST", path) for method, path, _ in TARGETS if method == "POST"} <= came


def test_a_name_that_is_bound_again_to_this_machine_changes_and_reads_nothing(target):
    own = f"http://rebound.test:{target.port}"
    before, made = target.facts(), attempts(own)
    with page_at(f"{own}/page") as page:
        page.evaluate(ATTACKS, made)
        read = page.evaluate("async () => (await fetch('/api/executions')).status")

    assert target.facts() == before
    assert read == 400
    assert {host for _, _, host in target.arrived} == {f"rebound.test:{target.port}"}
    assert {(method, path) for method, path, _ in TARGETS} <= {(method, path) for method, path, _ in target.arrived}


def test_a_page_of_the_server_itself_changes_what_it_asks_for(target):
    start = """async () => (await fetch("/api/workflows/twofold/executions", {method: "POST",
        headers: {"Content-Type": "application/json"}, body: '{"input": 1}'})).status"""
    before = target.facts()
    with page_at(f"{target.base}/page") as page:
        status = page.evaluate(start)

    assert status == 202
    assert target.facts() != before


@pytest.mark.parametrize("name", ["_check_kind", "_is_same_origin"])
def test_a_guard_that_does_not_ask_whence_is_found(target, monkeypatch, name):
    monkeypatch.setattr(Guard, "_check_kind", lambda *_: None)
    if name == "_is_same_origin":
        monkeypatch.undo()
        monkeypatch.setattr(Guard, "_is_same_origin", lambda *_: True)
        monkeypatch.setattr("flux.api.guard._is_json", lambda _: True)
    before = target.facts()
    with page_at("http://evil.test/page") as page:
        page.evaluate(ATTACKS, attempts(target.base))

    assert target.facts() != before


def test_a_guard_that_takes_any_host_is_found(target, monkeypatch):
    monkeypatch.setattr(Guard, "_is_known", lambda *_: True)
    own, before = f"http://rebound.test:{target.port}", target.facts()
    with page_at(f"{own}/page") as page:
        page.evaluate(ATTACKS, attempts(own))

    assert target.facts() != before
