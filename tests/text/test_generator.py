import http.server
import json
import sys
import threading
import types

import pytest

from vtjax.errors import Problems, VtjaxError
from vtjax.text.decompose import decompose, parse_events
from vtjax.text.generator import HttpBackend, Prompt, make_generator, prompt_key

WALK = Prompt("events", "Caption: a man walks", "be brief", where="clip 7")


@pytest.fixture
def fake_module(monkeypatch):
    """Module `fake_llm` whose answer() counts its calls."""
    module = types.ModuleType("fake_llm")
    module.calls = []

    def answer(system, prompt):
        module.calls.append((system, prompt))
        return f"{prompt.upper()}!"

    module.answer = answer
    module.broken = lambda system, prompt: None
    module.number = 3
    monkeypatch.setitem(sys.modules, "fake_llm", module)
    return module


@pytest.fixture
def server():
    """A loopback endpoint: `script` holds (status, headers, body) to send in turn, `seen` the requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.seen.append((self.path, dict(self.headers), body))
            status, headers, answer = self.server.script.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    http_server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    http_server.script, http_server.seen = [], []
    http_server.url = f"http://127.0.0.1:{http_server.server_address[1]}/v1"
    threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield http_server
    http_server.shutdown()
    http_server.server_close()


def chat(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def test_key_depends_on_everything_that_determines_the_answer_and_never_changes():
    assert prompt_key(WALK, "m") == "d18657c327f5d09e06633cee42e45cd7"  # a change would orphan every cache
    others = [Prompt("x", WALK.text, WALK.system), Prompt("events", "b", WALK.system), Prompt("events", WALK.text, "")]
    assert len({prompt_key(WALK, "m"), prompt_key(WALK, "n"), *(prompt_key(p, "m") for p in others)}) == 5
    assert prompt_key(Prompt("events", WALK.text, WALK.system, where="elsewhere"), "m") == prompt_key(WALK, "m")


def test_call_writes_the_cache_that_cache_reads(tmp_path, fake_module):
    path = tmp_path / "sub" / "events.jsonl"
    generate = make_generator("call:fake_llm:answer", cache=path)
    sit = Prompt("events", "sit")
    assert generate([WALK, sit, WALK]) == ["CAPTION: A MAN WALKS!", "SIT!", "CAPTION: A MAN WALKS!"]
    assert fake_module.calls == [("be brief", WALK.text), ("", "sit")]
    assert make_generator("call:fake_llm:answer", cache=path)([sit]) == ["SIT!"]
    assert len(fake_module.calls) == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"key", "task", "model", "system", "prompt", "response"}] * 2
    assert lines[0]["key"] == prompt_key(WALK, "fake_llm:answer")

    cached = make_generator(f"cache:{path}")
    assert cached([sit, WALK]) == ["SIT!", "CAPTION: A MAN WALKS!"]
    with pytest.raises(VtjaxError, match=r"lacks 2 of 3 prompts.*clip 9: 'jump'.*'fly'"):
        cached([sit, Prompt("events", "jump", where="clip 9"), Prompt("events", "fly")])


def test_cache_by_hand_needs_no_key_and_names_models_when_there_are_several(tmp_path):
    path = tmp_path / "c.jsonl"
    entry = {"task": "events", "prompt": "p", "response": "r1", "model": "one"}
    path.write_text(json.dumps(entry) + "\n\n" + json.dumps({**entry, "model": "two", "response": "r2"}) + "\n")
    with pytest.raises(VtjaxError, match="several models.*'one', 'two'"):
        make_generator(f"cache:{path}")
    assert make_generator(f"cache:{path}#two")([Prompt("events", "p")]) == ["r2"]


def test_a_cut_off_last_line_is_reported_and_replaced(tmp_path, fake_module):
    path = tmp_path / "c.jsonl"
    make_generator("call:fake_llm:answer", cache=path)([Prompt("t", "one"), Prompt("t", "two")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    problems = Problems()
    generate = make_generator("call:fake_llm:answer", cache=path, problems=problems)
    assert len(problems) == 1 and problems.items[0].where.endswith("line 2")
    assert generate([Prompt("t", "one"), Prompt("t", "two")]) == ["ONE!", "TWO!"]
    assert [c[1] for c in fake_module.calls] == ["one", "two", "two"]
    assert path.read_bytes() == whole


def test_appends_after_a_whole_last_line_without_a_newline(tmp_path, fake_module):
    path = tmp_path / "c.jsonl"
    make_generator("call:fake_llm:answer", cache=path)([Prompt("t", "one")])
    path.write_bytes(path.read_bytes()[:-1])
    make_generator("call:fake_llm:answer", cache=path)([Prompt("t", "one"), Prompt("t", "two")])
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["one", "two"]


@pytest.mark.parametrize(
    "line, message", [("{", "not JSON"), ("[]", "expected a JSON object"), ('{"task": "t"}', "'prompt' is missing")]
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "c.jsonl"
    good = json.dumps({"task": "t", "prompt": "p", "response": "r"})
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(VtjaxError, match=f"line 2: .*{message}"):
        make_generator(f"cache:{path}")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "expected cache:PATH"), ("file:x", "expected cache:PATH"), ("cache:", "expected cache:PATH"),
        ("call:fake_llm", "expected call:module:function"), ("call:no_such_module:f", "no_such_module"),
        ("call:fake_llm:nothing", "nothing"), ("call:fake_llm:number", "not callable"),
        ("http:http://localhost:1/v1", "names no model"), ("http:ftp://x#m", "expected http"),
    ],
)  # fmt: skip
def test_specs_that_name_no_generator(spec, message, fake_module):
    with pytest.raises(VtjaxError, match=message):
        make_generator(spec)


def test_a_missing_cache_file_and_a_function_that_returns_no_text(tmp_path, fake_module):
    with pytest.raises(VtjaxError, match="there is no such file.*lacks 1 of 1"):
        make_generator(f"cache:{tmp_path / 'none.jsonl'}")([WALK])
    with pytest.raises(VtjaxError, match="returned NoneType"):
        make_generator("call:fake_llm:broken")([WALK])


def test_http_request_and_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    server.script = [(200, {}, chat("hi"))]
    path = tmp_path / "c.jsonl"
    spec = f"http:{server.url}#small-model"
    assert make_generator(spec, cache=path, key_variable="SOME_KEY")([WALK]) == ["hi"]
    (where, headers, body), = server.seen
    assert where == "/v1/chat/completions" and headers["Authorization"] == "Bearer s3cret"
    assert body["model"] == "small-model" and body["temperature"] == 0
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": WALK.text}]
    assert make_generator(spec, cache=path)([WALK]) == ["hi"]
    assert len(server.seen) == 1 and "s3cret" not in path.read_text()
    assert make_generator(f"cache:{path}")([WALK]) == ["hi"]


def test_http_retries_and_gives_up(server, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.script = [(500, {}, {}), (429, {"Retry-After": "7"}, {}), (503, {}, {}), (200, {}, chat("done"))]
    backend = HttpBackend(server.url, "m", wait=0.5)
    assert backend(WALK) == "done"
    assert waits == [0.5, 7.0, 2.0]
    assert "Authorization" not in server.seen[0][1]
    server.script = [(500, {}, b"overloaded")] * 2
    with pytest.raises(VtjaxError, match="2 attempts.*HTTP 500: overloaded"):
        HttpBackend(server.url, "m", retries=1)(WALK)


@pytest.mark.parametrize("status, answer, message", [
    (401, b"bad key", "401: bad key.*OPENAI_API_KEY"), (400, b"no", "400: no"), (200, b"<html>", "chat completion"),
    (200, {"choices": []}, "chat completion"), (200, {"choices": [{"message": {"content": None}}]}, "without a text"),
])  # fmt: skip
def test_http_refusals_are_not_repeated(server, status, answer, message):
    server.script = [(status, {}, answer)]
    with pytest.raises(VtjaxError, match=message):
        HttpBackend(server.url, "m")(WALK)
    assert len(server.seen) == 1


def test_http_nobody_there(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(VtjaxError, match="no answer in 2 attempts"):
        HttpBackend("http://127.0.0.1:9/v1", "m", retries=1, timeout=0.5)(WALK)


def test_decompose_reads_strict_json_and_counts_the_rest():
    answers = {
        "A man sits after walking.": '{"events": ["A man walks.", "A man sits."]}',
        "A man bows.": 'Sure! {"events": ["A man bows."]}',
        "A man hops then claps.": '{"events": ["A cat sleeps on a sofa."]}',
        "A man waves.": '```json\n{"events": ["A man waves."]}\n```',
        "A man jumps.": '{"events": ["A man jumps."], "note": 1}',
    }

    def generate(prompts):
        assert all(prompt.task == "events" and "JSON" in prompt.system for prompt in prompts)
        return [answers[prompt.text.removeprefix("Caption: ")] for prompt in prompts]

    problems = Problems()
    events = decompose(list(answers), generate, problems, where=[f"id_{i}" for i in range(5)])
    assert events == [["A man walks.", "A man sits."], *([caption] for caption in list(answers)[1:])]
    assert [problem.where for problem in problems.items] == ["id_1", "id_2", "id_3", "id_4"]
    assert sorted(problems.counts().values()) == [1, 3]
    with pytest.raises(VtjaxError, match="caption 1: the caption is empty"):
        decompose(["A man bows.", " "], generate, problems)
    with pytest.raises(VtjaxError, match="not JSON"):
        parse_events("events")
