"""LLaMA on texts: data, objective, and a run from start to answers."""

import json

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtjax.config import load_config_file
from vtjax.errors import VtjaxError
from vtjax.methods.llama import config as settings
from vtjax.methods.llama import data, pipeline, task
from vtjax.methods.llama.task import LlamaObjective
from vtjax.methods.llama.text import open_tokenizer, sizes_of
from vtjax.nn.lora import merge
from vtjax.sharding.partition import flatten
from vtjax.text.tokenizer import CausalWordTokenizer

CONFIG = settings.LlamaConfig(
    settings.LlamaModelConfig(rank=2, alpha=6.0, dropout=0.0, frozen_dtype="float32"),
    settings.LlamaTextConfig(max_tokens=12, chunk=5),
)


def test_world_questions_are_split_by_prompt_and_answered_by_the_caption():
    items = data.open_items(settings.LlamaDataConfig(world_size=300))
    prompts = [{i.prompt for i in side} for side in (items.train, items.test)]
    assert not prompts[0] & prompts[1] and len(items.train) + len(items.test) == 300
    assert 10 < len(items.test) < 60
    assert {i.prompt.rsplit(" ", 1)[1] for i in items.train} == {"first?", "last?"}
    assert items.fingerprint == data.open_items(settings.LlamaDataConfig(world_size=300)).fingerprint
    assert items.fingerprint != data.open_items(settings.LlamaDataConfig(world_size=300, world_seed=1)).fingerprint


def test_lines_that_cannot_be_read_are_counted(tmp_path):
    file = tmp_path / "lines.jsonl"
    good = [{"prompt": f"question {i}", "answer": f"answer {i}"} for i in range(40)] + [{"text": "a whole text"}]
    bad = ["{", json.dumps({"answer": "no prompt"}), json.dumps(["list"]), json.dumps({"text": " "}), ""]
    file.write_text("\n".join([*map(json.dumps, good), *bad]))
    items = data.open_items(settings.LlamaDataConfig(source=str(file), test=0.3))
    assert len(items.train) + len(items.test) == 41
    fields = 'neither "prompt" and "answer" nor "text", each a string'
    assert items.problems.counts() == {fields: 2, "not JSON": 1, "empty": 1}
    assert f"{file}:42" in items.problems.report()
    whole = next(i for i in (*items.train, *items.test) if i.answer == "a whole text")
    assert whole.prompt == ""
    with pytest.raises(VtjaxError, match="no such file"):
        data.open_items(settings.LlamaDataConfig(source=str(tmp_path / "nothing.jsonl")))
    file.write_text(json.dumps(good[0]))
    with pytest.raises(VtjaxError, match="of 1 items none is left to (train|test) on"):
        data.open_items(settings.LlamaDataConfig(source=str(file)))


def test_only_the_answer_counts_and_long_texts_are_cut():
    tokenizer = CausalWordTokenizer(["who", "?", "she", "did"])
    row = data.Transform(CONFIG, tokenizer)(data.Item("Who?", "she did", ""))
    assert row["ids"].tolist() == [1, 3, 4, 5, 6, 2] + [0] * 6
    assert row["valid"].tolist() == [True] * 6 + [False] * 6
    assert np.flatnonzero(row["counted"]).tolist() == [3, 4, 5]  # with the end
    long = [data.Item("who " * 8, "she " * 8, ""), data.Item("who " * 20, "she", "")]
    cut = data.Transform(CONFIG, tokenizer)(long[0])
    assert cut["valid"].all() and np.flatnonzero(cut["counted"]).tolist() == [9, 10, 11]
    assert data.too_long(long, data.Transform(CONFIG, tokenizer)) == (2, 1)
    assert tokenizer.decode([1, 5, 6, 4, 0, 2]) == "she did?"


def test_the_objective_is_that_of_the_merged_model_token_by_token():
    """Against logits of the whole sequence by a model without adapters whose weights are W + 3 A B."""
    sizes = sizes_of(CONFIG)
    params = jax.jit(lambda key: LlamaObjective(CONFIG, sizes).init(key))(jax.random.key(0))
    noise = np.random.default_rng(0)
    params[task.ADAPTER] = jax.tree.map(
        lambda x: x + 0.05 * noise.standard_normal(x.shape).astype(np.float32), params[task.ADAPTER]
    )
    ids = noise.integers(3, 60, (3, 12)).astype(np.int32)
    valid = np.arange(12)[None] < np.array([[12], [9], [5]])
    counted = valid & (np.arange(12)[None] >= 3)
    found = LlamaObjective(CONFIG, sizes).loss(params, {"ids": ids, "valid": valid, "counted": counted}, jax.random.key(1), True)
    merged = merge(params["base"], [(task.lora_config(CONFIG), params[task.ADAPTER])])
    plain = LlamaObjective(settings.LlamaConfig(settings.LlamaModelConfig(learns="all")), sizes).model
    logits = np.asarray(jax.jit(plain)(merged, ids, valid), np.float64)
    total = 0.0
    for b in range(3):
        for t in range(3, int(valid[b].sum())):
            scores = logits[b, t - 1]
            total += np.log(np.exp(scores).sum()) - scores[ids[b, t]]
    np.testing.assert_allclose(found["loss"][0], total, rtol=1e-4)
    assert found["loss"][1] == counted.sum() == found["accuracy"][1]
    rows = LlamaObjective(CONFIG, sizes).scores(params, {"ids": ids, "valid": valid, "counted": counted})
    np.testing.assert_allclose(rows[0].sum(), found["loss"][0], rtol=1e-5)
    np.testing.assert_array_equal(rows[2], counted.sum(axis=1))


def test_what_learns_and_in_which_precision():
    experiment = load_config_file("configs/llama.py:7b")
    experiment.method.model.preset, experiment.compute_dtype = "tiny", "bfloat16"
    planned = pipeline.abstract(experiment)
    params = flatten(jax.eval_shape(planned.init, jax.random.key(0), None))
    assert {p.split("/")[0] for p in params} == {"base", "adapter"}
    assert {x.dtype for p, x in params.items() if p.startswith("base/")} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for p, x in params.items() if p.startswith("adapter/")} == {jnp.dtype(jnp.float32)}
    from vtjax.sharding.partition import split

    learnt, frozen = split(jax.eval_shape(planned.init, jax.random.key(0), None), planned.train.trainable)
    assert set(learnt) == {"adapter"} and set(frozen) == {"base"}
    experiment.method.model.learns = "all"
    planned = pipeline.abstract(experiment)
    whole = jax.eval_shape(planned.init, jax.random.key(0), None)
    assert set(whole) == {"base"} and {x.dtype for x in jax.tree.leaves(whole)} == {jnp.dtype("float32")}
    for field, value in (("learns", "some"), ("preset", "8b"), ("remat", "ful")):
        broken = load_config_file("configs/llama.py:7b")
        setattr(broken.method.model, field, value)
        with pytest.raises(VtjaxError, match=f"model.{field}='{value}'"):
            pipeline.abstract(broken)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    config = settings.LlamaConfig()
    sizes = sizes_of(config)
    open_tokenizer(config, sizes, tmp_path, ["one two two"])
    assert open_tokenizer(config, sizes, tmp_path).ids("two one three", eos=True) == [1, 3, 4, 0, 2]
    import dataclasses

    with pytest.raises(VtjaxError, match="5 ids, the model 4"):
        open_tokenizer(config, dataclasses.replace(sizes, vocab_size=4), tmp_path)
    with pytest.raises(VtjaxError, match="missing; vtjax.train writes it"):
        open_tokenizer(config, sizes, tmp_path / "elsewhere")


def test_a_run_from_start_to_answers(tmp_path):
    work = tmp_path / "run"
    config = f"--config={commands.ROOT}/configs/llama.py:smoke"
    done = commands.run("-m", "vtjax.train", config, f"--work_directory={work}", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "answers/next token" in done.stdout and (work / "report.html").is_file()
    records = map(json.loads, (work / "train" / "metrics.jsonl").read_text().splitlines())
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0]
    asked = ["A person jumps, then bows. What happens first?", "What happens last?"]
    done = commands.run(
        "-m", "vtjax.predict", f"--work_directory={work}", "--max_new_tokens=5", *(f"--prompt={p}" for p in asked),
        cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads((work / "prediction.json").read_text())
    assert [a["prompt"] for a in answers] == asked and (work / "prediction.html").is_file()
    refused = commands.run("-m", "vtjax.predict", f"--work_directory={work}", "--prompt= ")
    commands.refused(refused, "none of them empty")
    commands.refused(commands.run("-m", "vtjax.evaluate", f"--work_directory={work}", "--split=val"), "test or train")
