"""One text generator for every method that asks a language model for something: event lists, step lists, captions.

A generator is any callable from prompts to responses of the same length. Three kinds, all behind one cache file:
`cache:PATH` (the default) only reads the cache and never touches the network; `call:module:function` calls Python;
`http:URL#model` asks an OpenAI-compatible endpoint. A cache line is JSON with the keys key, task, model, system,
prompt and response, and `key` is a hash of (task, model, system, prompt), so a cache can be shared and read by eye.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from vtjax.errors import Problems, VtjaxError

API_KEY_VARIABLE = "OPENAI_API_KEY"
_ENTRY = {"task": None, "model": "", "system": "", "prompt": None, "response": None}  # texts of a line, with defaults
_EXPECTED = "expected a JSON object with the texts task, model, prompt and response"
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One question. task: what is asked, e.g. "events"; part of the cache key. where: item named in messages."""

    task: str
    text: str
    system: str = ""
    where: str = ""


TextGenerator = Callable[[Sequence[Prompt]], list[str]]  # prompts to responses, one each, in order


def prompt_key(prompt: Prompt, model: str) -> str:
    """Stable hash (32 hex digits) of what determines a response: task, model, system text and prompt."""
    content = json.dumps([prompt.task, model, prompt.system, prompt.text], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


class TextCache:
    """Keeps responses in a JSONL file, appended as they arrive, so that an interrupted run goes on where it stopped.

    Args:
      path: the file, created on the first write; None keeps responses in memory.
      problems: told of a last line that was cut off while being written, which is dropped.

    Raises:
      VtjaxError: any other broken line; its number is named.
    """

    def __init__(self, path: str | os.PathLike | None = None, problems: Problems | None = None) -> None:
        self.path = pathlib.Path(path) if path is not None else None
        self.responses: dict[str, str] = {}
        self.models: set[str] = set()
        self._cut_at: int | None = None  # where the cut-off line begins
        self._unended = False  # the last line is whole but for its line break
        if self.path is None or not self.path.exists():
            return
        content = self.path.read_bytes()
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            where, last = f"{self.path}, line {number}", not line.endswith(b"\n")
            try:
                if line.strip():
                    self._remember(json.loads(line), where)
                self._unended = last
            except ValueError as error:
                if isinstance(error, VtjaxError):
                    raise
                if not last:
                    raise VtjaxError(f"{where}: not JSON ({error}); {_EXPECTED}") from error
                if problems is not None:
                    problems.add(where, "the last cache line is cut off and is asked for again")
                self._cut_at = len(content) - len(line)

    def _remember(self, entry: object, where: str) -> None:
        if not isinstance(entry, dict):
            raise VtjaxError(f"{where}: {_EXPECTED}")
        texts = {name: entry.get(name, default) for name, default in _ENTRY.items()}
        missing = [name for name, value in texts.items() if not isinstance(value, str)]
        if missing:
            raise VtjaxError(f"{where}: {missing[0]!r} is missing or not a text; {_EXPECTED}")
        prompt = Prompt(texts["task"], texts["prompt"], texts["system"])
        # The hash is computed again rather than trusted, so that a hand-written line needs none.
        self.responses[prompt_key(prompt, texts["model"])] = texts["response"]
        self.models.add(texts["model"])

    def get(self, prompt: Prompt, model: str) -> str | None:
        return self.responses.get(prompt_key(prompt, model))

    def put(self, prompt: Prompt, model: str, response: str) -> None:
        """Remembers a response, and writes it to the file before returning."""
        key = prompt_key(prompt, model)
        self.responses[key] = response
        self.models.add(model)
        if self.path is None:
            return
        entry = {"key": key, "task": prompt.task, "model": model, "system": prompt.system, "prompt": prompt.text}
        line = (json.dumps({**entry, "response": response}, ensure_ascii=False) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab") as file:
            if self._cut_at is not None:
                file.truncate(self._cut_at)
            file.write(b"\n" + line if self._unended else line)
        self._cut_at, self._unended = None, False


class CachedGenerator:
    """Answers from the cache; what it lacks goes to `backend`, one prompt at a time, and into the cache.

    Args:
      cache: the responses so far.
      backend: (prompt) -> response; None to answer from the cache only.
      model: its name in the cache; without a name and a backend, the only model that the cache has.

    Raises:
      VtjaxError: the cache lacks a prompt and there is no backend; the missing prompts are named.
    """

    def __init__(self, cache: TextCache, backend: Callable[[Prompt], str] | None = None, model: str = "") -> None:
        self.cache = cache
        self.backend = backend
        if not model and backend is None:
            if len(cache.models) > 1:
                named = ", ".join(sorted(map(repr, cache.models)))
                raise VtjaxError(f"{cache.path} has responses of several models ({named}): name one, cache:PATH#model")
            model = next(iter(cache.models), "")
        self.model = model

    def __call__(self, prompts: Sequence[Prompt]) -> list[str]:
        missing = [prompt for prompt in prompts if self.cache.get(prompt, self.model) is None]
        if missing and self.backend is None:
            raise VtjaxError(self._missing_message(missing, len(prompts)))
        for prompt in missing:
            if self.cache.get(prompt, self.model) is not None:
                continue  # asked twice in one call
            response = self.backend(prompt)
            if not isinstance(response, str):
                kind = type(response).__name__
                raise VtjaxError(f"the text generator returned {kind} for {prompt.text!r}: expected a str")
            self.cache.put(prompt, self.model, response)
        return [self.cache.get(prompt, self.model) for prompt in prompts]

    def _missing_message(self, missing: list[Prompt], asked: int) -> str:
        examples = "; ".join(
            f"{prompt.where + ': ' if prompt.where else ''}{prompt.text[:80]!r} (key {prompt_key(prompt, self.model)})"
            for prompt in missing[:3]
        )
        exists = "" if self.cache.path is not None and self.cache.path.exists() else " (there is no such file)"
        return (
            f"the text cache {self.cache.path}{exists} lacks {len(missing)} of {asked} prompts for model "
            f"{self.model!r}: {examples}{'; ...' if len(missing) > 3 else ''}. Fill it with call:module:function or "
            "http:URL#model, which write to the same file"
        )


class HttpBackend:
    """Asks an OpenAI-compatible endpoint for chat completions, at temperature 0.

    Args:
      url: base, e.g. "http://localhost:8000/v1", or the full address that ends in /chat/completions.
      model: as the endpoint calls it.
      key_variable: environment variable that the API key is read from at each call; left out when it is unset.
      timeout: of one attempt, in seconds.
      retries: attempts after the first.
      wait: seconds before the second attempt, doubled each time, or what the server's Retry-After asks for; at most 60.

    Raises:
      VtjaxError: the last attempt failed too, or, at once, the server refuses the request itself.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str = API_KEY_VARIABLE,
        timeout: float = 60.0,
        retries: int = 4,
        wait: float = 1.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise VtjaxError(f"{url!r} is not an address of a text generator: expected http://... or https://...")
        url = url.rstrip("/")
        self.url = url if url.endswith("/chat/completions") else url + "/chat/completions"
        self.model, self.key_variable = model, key_variable
        self.timeout, self.retries, self.wait = timeout, retries, wait

    def __call__(self, prompt: Prompt) -> str:
        for attempt in range(self.retries + 1):
            pause = min(self.wait * 2**attempt, 60.0)
            try:
                return self._ask(prompt)
            except urllib.error.HTTPError as error:
                detail = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip()}"
                if error.code not in _RETRIED:
                    hint = f" (is {self.key_variable} set?)" if error.code in (401, 403) else ""
                    raise VtjaxError(f"{self.url} refused the request, {detail}{hint}") from error
                asked = error.headers.get("Retry-After", "")
                pause = min(float(asked), 60.0) if asked.isdigit() else pause
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                detail = str(getattr(error, "reason", error))
            if attempt < self.retries:
                time.sleep(pause)
        raise VtjaxError(f"{self.url} gave no answer in {self.retries + 1} attempts; the last failed with {detail}")

    def _ask(self, prompt: Prompt) -> str:
        system = [{"role": "system", "content": prompt.system}] if prompt.system else []
        messages = [*system, {"role": "user", "content": prompt.text}]
        body = {"model": self.model, "temperature": 0, "messages": messages}
        headers = {"Content-Type": "application/json"}
        if os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            content = response.read()
        try:
            answer = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise VtjaxError(f"{self.url} did not answer as a chat completion: {content[:200]!r}") from error
        if not isinstance(answer, str):
            raise VtjaxError(f"{self.url} answered without a text: {content[:200]!r}")
        return answer


def _python_function(spec: str) -> Callable[[str, str], str]:
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise VtjaxError(f"text generator 'call:{spec}': expected call:module:function")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # console scripts do not have the working directory on their path
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise VtjaxError(f"text generator 'call:{spec}': {error}") from error
    if not callable(function):
        raise VtjaxError(f"text generator 'call:{spec}': {name} is not callable")
    return function


def make_generator(
    spec: str,
    *,
    cache: str | os.PathLike | None = None,
    problems: Problems | None = None,
    key_variable: str = API_KEY_VARIABLE,
) -> TextGenerator:
    """Makes the generator that `spec` names.

    Args:
      spec: one of
        cache:PATH[#model]      answers from that JSONL file only; a prompt it lacks is an error that names it;
        call:module:function    function(system: str, prompt: str) -> str, in this process;
        http:URL#model          an OpenAI-compatible endpoint, URL with its own http:// or https://.
      cache: file behind call and http; None keeps their answers in memory.
      problems: told of a cut-off cache line.
      key_variable: see `HttpBackend`.

    Raises:
      VtjaxError: any other spec, a module or function that cannot be imported, or a broken cache.
    """
    kind, _, rest = spec.partition(":")
    if kind in ("http", "https") and rest.startswith("//"):
        kind, rest = "http", spec
    if kind not in ("cache", "call", "http") or not rest:
        raise VtjaxError(f"text generator {spec!r}: expected cache:PATH, call:module:function or http:URL#model")
    if kind == "cache":
        path, _, model = rest.partition("#")
        return CachedGenerator(TextCache(path, problems), model=model)
    store = TextCache(cache, problems)
    if kind == "call":
        function = _python_function(rest)
        return CachedGenerator(store, lambda prompt: function(prompt.system, prompt.text), model=rest)
    url, _, model = rest.partition("#")
    if not model:
        raise VtjaxError(f"text generator {spec!r} names no model: expected http:URL#model")
    return CachedGenerator(store, HttpBackend(url, model, key_variable=key_variable), model=model)
