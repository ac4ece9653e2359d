"""Who is let in: deny by default, tokens and their roles, hosts and origins."""

import asyncio
import itertools

import pytest
from fastapi import FastAPI

from flux.api import access, guard
from flux.api.guard import Limits
from server.security.hostile import Clock, Harmed, asked, connected, listening, raw, read_all, scope

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
OPEN = {"/healthz", "/readyz"}


def paths(application) -> list[str]:
    """Every path that there is, at run time, with something in place of its parameters."""
    return sorted({path for route in application.router.routes for path in _paths(route)})


def _paths(route):
    if hasattr(route, "effective_candidates"):  # A router that was included.
        for inner in route.effective_candidates():
            yield from _paths(inner)
    else:
        yield route.path.replace("{name:path}", "twofold").replace("{", "").replace("}", "")


def statuses(harmed, path, **more) -> dict[str, int]:
    return {method: harmed.ask(method, path, on=harmed.closed, **more).status for method in METHODS}


def test_every_route_is_listed(harmed):
    found = paths(harmed.closed)
    documented = {
        path.replace("{name}", "name").replace("{", "").replace("}", "") for path in harmed.closed.openapi()["paths"]
    }

    assert {"/api/workflows", "/api/stream", "/api/openapi.json", "/api/tokens", *OPEN} <= set(found)
    assert {path.replace("twofold", "name") for path in found} == documented | {"/api/openapi.json"}


@pytest.mark.parametrize("kind", ["none", "wrong", "expired", "revoked", "empty", "basic"])
def test_without_a_valid_token_nothing_is_answered_but_two_paths(harmed, kind):
    gone = harmed.token("gone", "admin")
    harmed.app.catalogue.delete_token("gone")
    headers = {
        "none": {},
        "wrong": {"authorization": f"Bearer {harmed.tokens['admin'][:-1]}"},
        "expired": {"authorization": f"Bearer {harmed.token('older', 'admin', 0.000001)}"},
        "revoked": {"authorization": f"Bearer {gone}"},
        "empty": {"authorization": "Bearer "},
        "basic": {"authorization": f"Basic {harmed.tokens['admin']}"},
    }[kind]
    reached = {
        (path, method)
        for path in [*paths(harmed.closed), "/", "/metrics", "/docs", "/static/app.js", "/api/nothing"]
        for method, status in statuses(harmed, path, headers=headers).items()
        if status != 401
    }

    assert reached == set(itertools.product(OPEN, ("GET", "HEAD")))


def test_the_control_a_guard_with_a_prefix_for_a_list_is_found(harmed, monkeypatch):
    class Suffixes(frozenset):
        def __contains__(self, path):
            return path.endswith(("healthz", "readyz"))

    monkeypatch.setattr(guard, "OPEN", Suffixes())

    assert harmed.ask("GET", "/api/executions/healthz", on=harmed.closed).status != 401


TRICKS = """
//healthz /healthz/ /healthz; /healthz;x /healthz%00 /healthz%20 /%2e/healthz /./healthz /x/../healthz /HEALTHZ
/healthz/../api/executions /healthz%2f..%2fapi/executions /api/executions/healthz /api/executions/readyz
/api/workflows/healthz /api/executions/x%2f..%2f..%2fhealthz /api//executions /API/EXECUTIONS /api/executions/
/api/executions;/healthz /%61pi/executions /api/%65xecutions /api/executions%3f /api/executions%23/healthz
/healthz%23 /healthz%3f/api \\healthz /api\\executions http://127.0.0.1/healthz //127.0.0.1/healthz healthz * .
""".split()


def test_no_spelling_of_a_path_is_let_in(harmed):
    headers = ({}, {"x-http-method-override": "GET"})
    for path, method, more in itertools.product(TRICKS, ("GET", "HEAD", "POST"), headers):
        assert harmed.ask(method, path, on=harmed.closed, headers=more).status in {400, 401}, path


def test_a_method_in_a_header_changes_nothing(harmed):
    harmed.start("mine")
    for name in ("x-http-method-override", "x-method-override", "x-http-method", "_method"):
        headers = {name: "DELETE", "x-original-url": "/healthz", "x-rewrite-url": "/healthz", "forwarded": "for=x"}

        assert harmed.ask("GET", "/api/tokens/admin", on=harmed.closed, headers=headers).status == 401
    assert harmed.app.catalogue.find_token(access.digest(harmed.tokens["admin"])) is not None


def test_an_encoded_path_needs_the_role_of_the_path_that_it_means(harmed):
    for path in ("/api/tokens", "/api/%74okens", "/%61pi/tokens", "/api/tokens?x", "/api/secrets", "/api/secret%73"):
        assert harmed.ask("GET", path, on=harmed.closed, token=harmed.tokens["operator"]).status == 403
        assert harmed.ask("GET", path, on=harmed.closed, token=harmed.tokens["admin"]).status == 200


def test_a_path_with_a_slash_behind_is_another_one_and_not_redirected(harmed):
    for path in ("/api/executions/", "/api/tokens/", "/healthz/"):
        assert harmed.ask("GET", path).status == 404


def test_each_route_needs_the_role_that_is_written_down(harmed):
    def let_in(path, method, role):
        answer = harmed.ask(method, path, on=harmed.closed, token=harmed.tokens[role], data={})
        return answer.status not in {401, 403}

    for path in paths(harmed.closed):
        is_admins = path.startswith(("/api/tokens", "/api/secrets"))
        if path in OPEN:
            continue
        assert (let_in(path, "POST", "viewer"), let_in(path, "DELETE", "viewer")) == (False, False)
        assert let_in(path, "POST", "operator") is not is_admins
        assert let_in(path, "DELETE", "admin")
    assert harmed.ask("GET", "/api/executions", on=harmed.closed, token=harmed.tokens["viewer"]).status == 200


def test_the_control_a_guard_without_roles_is_found(harmed, monkeypatch):
    monkeypatch.setattr(access, "role_for", lambda method, path: "viewer")

    assert harmed.ask("GET", "/api/tokens", on=harmed.closed, token=harmed.tokens["viewer"]).status == 200


def test_where_it_is_mounted_changes_no_role(harmed):
    for path, needed in (("/flux/api/tokens", 403), ("/flux/api/executions", 200)):
        answer = harmed.ask("GET", path, on=harmed.closed, token=harmed.tokens["operator"], root_path="/flux")

        assert answer.status == needed
    assert harmed.ask("GET", "/flux/healthz", on=harmed.closed, root_path="/flux").status == 200
    assert harmed.ask("GET", "/fluxx/healthz", on=harmed.closed, root_path="/flux").status == 401

    outer = FastAPI()
    outer.mount("/flux", harmed.closed)
    found = {
        (path, role): harmed.ask("GET", path, on=outer, token=harmed.tokens.get(role)).status
        for path in ("/flux/healthz", "/flux/api/tokens", "/flux//api/tokens", "/flux/api/executions")
        for role in ("nobody", "operator", "admin")
    }
    assert [status for status in found.values() if status == 200] == [200] * 6
    assert [found["/flux/api/tokens", role] for role in ("nobody", "operator", "admin")] == [401, 403, 200]
    assert [found["/flux//api/tokens", role] for role in ("nobody", "operator", "admin")] == [401, 404, 404]


def test_a_web_socket_is_refused(harmed):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(harmed.open({"type": "websocket", "path": "/api/stream", "headers": []}, None, send))

    assert sent == [{"type": "websocket.close", "code": 1008}]


# -- hosts and origins

HOSTS = [
    "evil.test", "evil.test:7600", "127.0.0.1.nip.io", "localhost.evil", "localhost.evil:7600", "", " ", ":7600",
    "127.0.0.1@evil.test", "evil.test@127.0.0.1", "user:pass@localhost", "localhost:x", "localhost:99999",
    "127.0.0.1/healthz", "127.0.0.1?x", "127.0.0.1#x", "127.0.0.1\\@evil.test", "127.0.0.2", "0.0.0.0", "2130706433",
    "0x7f.1", "[::ffff:127.0.0.1]", "[::1", "localhost.", "localhost%2eevil", "localhost,evil.test", "a localhost",
]  # fmt: skip


def test_by_another_name_the_server_is_not_known(harmed):
    for path, host, method in itertools.product(paths(harmed.open), HOSTS, ("GET", "POST", "DELETE")):
        answer = harmed.ask(method, path, headers={"host": host, "content-type": "application/json"})

        assert (answer.status, answer.json["type"]) == (400, "UnknownHost"), (path, host)


def test_without_a_host_or_with_two_nothing_is_answered(harmed):
    for headers in ([("host", None)], [("host", "localhost"), ("host", "evil.test")]):
        for path in ("/healthz", "/api/stream", "/api/executions"):
            assert asyncio.run(asked(harmed.open, scope("GET", path, headers))).status == 400


def test_its_own_names_are_known_with_any_port(harmed):
    for host in ("localhost", "LOCALHOST:7600", "127.0.0.1", "127.0.0.1:80"):
        assert harmed.ask("GET", "/api/executions", headers={"host": host}).status == 200


def test_on_every_address_it_is_known_by_addresses_and_no_other_name(harmed):
    everywhere = harmed.application(is_open=False, any_address=True)
    for host, status in (("192.0.2.7:80", 200), ("[2001:db8::1]:80", 200), ("evil.test", 400), ("1.2.3.4.nip.io", 400)):
        assert harmed.ask("GET", "/healthz", on=everywhere, headers={"host": host}).status == status


def test_the_control_a_guard_that_knows_every_host_is_found(harmed, monkeypatch):
    monkeypatch.setattr(guard.Guard, "_is_known", lambda self, host: True)

    assert harmed.ask("GET", "/api/executions", headers={"host": "evil.test"}).status == 200


FOREIGN = [
    {"origin": "http://evil.test"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"}, {"origin": ""},
    {"origin": "http://127.0.0.1:7600.evil.test"}, {"origin": "http://evil.test#127.0.0.1:7600"}, {"origin": "file://"},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"sec-fetch-site": ""},
    {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:7600"},
]  # fmt: skip


def test_a_page_of_another_site_changes_nothing(harmed):
    harmed.start("mine")
    requests = [
        *[
            ("GET", path)
            for path in ("/api/executions", "/api/executions/mine?wait=60", "/api/stream", "/api/openapi.json")
        ],
        ("POST", "/api/workflows/twofold/executions"),
        *[("POST", f"/api/executions/mine/{verb}") for verb in ("resume", "cancel", "signal", "retry", "fork")],
        ("DELETE", "/api/tokens/admin"),
        ("PUT", "/api/secrets/KEY"),
    ]
    for headers, (method, path) in itertools.product(FOREIGN, requests):
        answer = harmed.ask(method, path, headers={**headers, "content-type": "application/json", "x-flux": "1"})

        assert (answer.status, answer.is_problem()) == (403, True), (headers, path)
    assert harmed.app.store.get("mine").last_seq == 1
    assert len(harmed.ask("GET", "/api/executions").json["executions"]) == 1


SIMPLE = [
    {}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"},
    {"content-type": "multipart/form-data; boundary=x"}, {"content-type": "text/plain; application/json"},
    {"content-type": "application/jsonp"}, {"content-type": ""},
]  # fmt: skip


def test_a_request_that_any_page_could_send_is_refused(harmed):
    harmed.start("mine")
    bodies, verbs = (None, b"", b'{"input": 1}'), ("cancel", "retry", "resume")
    for headers, body, verb in itertools.product(SIMPLE, bodies, verbs):
        assert harmed.ask("POST", f"/api/executions/mine/{verb}", headers=headers, body=body).status == 415, headers
    assert harmed.app.store.get("mine").last_seq == 1
    assert harmed.app.store.inbox("mine") == []


def test_without_a_body_a_header_of_ours_is_enough(harmed):
    harmed.start("mine")

    assert harmed.ask("POST", "/api/executions/mine/cancel", headers={"x-flux": "1"}).status == 202
    assert harmed.ask("POST", "/api/executions/mine/resume", headers={"x-flux": "1"}, body=b"{}").status == 415


def test_the_control_a_guard_without_a_kind_is_found(harmed, monkeypatch):
    monkeypatch.setattr(guard.Guard, "_check_kind", lambda *_: None)
    harmed.start("mine")

    headers = {"origin": "http://evil.test", "content-type": "text/plain"}
    assert harmed.ask("POST", "/api/executions/mine/cancel", headers=headers).status == 202


def test_our_own_pages_and_those_that_were_named_may_send(harmed):
    harmed.start("mine")
    own = {"origin": "http://127.0.0.1:7600", "sec-fetch-site": "same-origin", "content-type": "application/json"}
    assert harmed.ask("POST", "/api/executions/mine/signal", headers=own, data={"name": "x"}).status == 202

    named = harmed.application(is_open=True, origins={"https://ops.example"})
    other = {"origin": "https://ops.example", "sec-fetch-site": "cross-site", "content-type": "application/json"}
    assert harmed.ask("POST", "/api/executions/mine/signal", on=named, headers=other, data={"name": "x"}).status == 202


def test_every_answer_has_the_headers_that_bind_browsers(harmed, monkeypatch):
    harmed.start("mine")
    answers = [
        harmed.ask("GET", "/healthz"),
        harmed.ask("GET", "/api/executions"),
        harmed.ask("GET", "/api/executions/none"),
        harmed.ask("GET", "/nothing"),
        harmed.ask("GET", "/api/executions", headers={"host": "evil.test", "origin": "http://evil.test"}),
        harmed.ask("OPTIONS", "/api/executions", headers={"origin": "http://evil.test"}),
        harmed.ask("GET", "/api/executions", on=harmed.closed),
        harmed.ask("POST", "/api/executions/mine/resume", body=b"{"),
    ]
    monkeypatch.setattr(type(harmed.app.store), "get", lambda *_: 1 / 0)
    answers.append(harmed.ask("GET", "/api/executions/mine"))

    assert [each.status for each in answers] == [200, 200, 404, 404, 400, 405, 401, 400, 500]
    for each in answers:
        assert each.header("x-content-type-options") == "nosniff"
        assert "default-src 'self'; frame-ancestors 'none'" in each.header("content-security-policy")
        assert each.header("referrer-policy") == "no-referrer"
        assert not [name for name, _ in each.headers if name.startswith("access-control-")]
    assert [each.header("cache-control") for each in answers[1:3]] == ["no-store", "no-store"]
    assert answers[-1].is_problem()


# -- tokens


def test_a_token_is_long_random_shown_once_and_stored_as_a_hash(harmed, tmp_path):
    made = [harmed.ask("POST", "/api/tokens", data={"name": f"t{n}", "role": "viewer"}).json["token"] for n in range(5)]

    assert len(set(made)) == 5
    assert all(len(each.removeprefix("flux_")) * 6 >= 256 for each in made)
    assert harmed.ask("GET", "/api/executions", on=harmed.closed, token=made[0]).status == 200
    shown = harmed.ask("GET", "/api/tokens").body.decode()
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [each for each in made if each in shown or each.encode() in stored]
    assert access.digest(made[0]) in stored


def test_hashes_are_compared_in_constant_time(harmed, monkeypatch):
    compared = []
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    harmed.ask("GET", "/api/executions", on=harmed.closed, token=harmed.tokens["viewer"])

    assert [{len(a), len(b)} for a, b in compared] == [{32}]


def test_a_revoked_token_is_refused_at_once(harmed):
    token = harmed.token("temporary", "viewer")
    assert harmed.ask("GET", "/api/executions", on=harmed.closed, token=token).status == 200
    assert harmed.ask("DELETE", "/api/tokens/temporary", on=harmed.closed, token=harmed.tokens["admin"]).status == 204

    assert harmed.ask("GET", "/api/executions", on=harmed.closed, token=token).status == 401


def test_bad_tokens_are_answered_ten_times_a_minute_and_then_not_looked_at(tmp_path):
    clock = Clock()
    harmed = Harmed(tmp_path, clock)
    strict = harmed.application(is_open=False, limits=Limits())

    def tried(count, **more):
        return [
            harmed.ask("GET", "/api/executions", on=strict, token=f"guess {n}", **more).status for n in range(count)
        ]

    assert tried(1000) == [401] * 10 + [429] * 990
    assert harmed.ask("GET", "/api/executions", on=strict, token=harmed.tokens["viewer"]).status == 200
    assert tried(3, client=("192.0.2.2", 1)) == [401] * 3
    refused = harmed.ask("GET", "/api/executions", on=strict, token="guess")
    assert 1 <= int(refused.header("retry-after")) <= 61
    clock.pass_seconds(61)
    assert tried(11) == [401] * 10 + [429]
    harmed.close()


def test_all_addresses_together_have_a_limit_and_the_table_of_them_too(tmp_path):
    clock = Clock()
    harmed = Harmed(tmp_path, clock)
    strict = harmed.application(is_open=False, limits=Limits())
    found = [
        harmed.ask("GET", "/healthz/x", on=strict, token="guess", client=(f"192.0.{n // 250}.{n % 250}", 1)).status
        for n in range(150)
    ]
    failures = access.Failures(Limits())
    for n in range(5000):
        failures.add(f"10.0.{n // 250}.{n % 250}", n)

    assert found == [401] * 100 + [429] * 50
    assert len(failures._of) == access.Failures.ADDRESSES
    assert harmed.ask("GET", "/api/executions", on=strict, token=harmed.tokens["viewer"]).status == 200
    harmed.close()


def test_one_network_of_ipv6_is_one_client(tmp_path):
    failures = access.Failures(Limits())
    assert [failures.add(f"2001:db8::{n}", 0) > 0 for n in range(12)] == [False] * 10 + [True] * 2
    assert failures.add("2001:db8:0:1::1", 0) == 0


def test_the_control_a_guard_that_counts_no_failures_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(access.Failures, "add", lambda *_: 0)
    harmed = Harmed(tmp_path)
    strict = harmed.application(is_open=False, limits=Limits())

    assert {harmed.ask("GET", "/api/executions", on=strict, token=f"{n}").status for n in range(20)} == {401}
    harmed.close()


def test_when_the_tokens_cannot_be_read_nobody_is_let_in(harmed, monkeypatch):
    from flux.errors import StoreError

    def lost(_, digest):
        raise StoreError("the database is lost: mend it")

    monkeypatch.setattr(type(harmed.app.catalogue), "find_token", lost)
    closed = harmed.application(is_open=False)
    answer = harmed.ask("GET", "/api/executions", on=closed, token=harmed.tokens["viewer"])

    assert (answer.status, answer.is_problem()) == (503, True)


def test_over_a_socket_no_target_that_is_no_path_is_let_in(harmed):
    targets = (
        "http://127.0.0.1/healthz",
        "//healthz",
        "*",
        "healthz",
        "http://evil.test/api/executions",
        "/%2e/healthz",
    )
    with listening(harmed.closed) as port:
        for target in targets:
            with connected(port, raw("GET", target, "Connection: close")) as client:
                assert read_all(client).split()[1] in {b"400", b"401"}
        with connected(port, raw("GET", "/healthz", "Connection: close")) as client:
            assert read_all(client).split()[1] == b"200"
