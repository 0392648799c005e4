"""What a method is: one record of plain functions, checked when it is registered.

A method's package has `method() -> Method` in its `__init__.py`, with its imports inside, so that settings load without
JAX. Other packages add methods through the entry point group `vtjax.methods`: the name of an entry is the method's, its
value `package.module:method`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtjax import arguments
from vtjax.config import Experiment, Stages, check_fields
from vtjax.errors import VtjaxError

if typing.TYPE_CHECKING:
    from vtjax.evals.protocol import Result
    from vtjax.report.answer import Answer
    from vtjax.report.page import Page
    from vtjax.training.task import Task
    from vtjax.weights.layout import Layout


def always(experiment: Experiment) -> bool:
    """Says yes: the stage is part of every experiment."""
    return True


@dataclasses.dataclass(frozen=True)
class Stage:
    """One call of the training loop. Its frozen result is data or weights of the stages after it.

    Attributes:
      build: (experiment, work directory) -> the Task with its data; writes what the run needs besides parameters
        (tokenizer, statistics) on the way.
      abstract: (experiment) -> the same Task without its data: shapes, initial parameters, loss and partition rules. It
        reads and writes nothing; `vtjax.plan` compiles it and `vtjax.bench` times it.
      takes: earlier stages whose results it reads.
      wanted: (experiment) -> whether this experiment has the stage.
    """

    build: Callable[[Experiment, Path], Task]
    abstract: Callable[[Experiment], Task]
    takes: tuple[str, ...] = ()
    wanted: Callable[[Experiment], bool] = always


def _nothing(config: Any) -> None:
    """Accepts every setting."""


@dataclasses.dataclass(frozen=True)
class Method:
    """All that the library knows of a method.

    Attributes:
      name: as in `config.name`.
      about: one sentence.
      config: dataclass of `Experiment.method`; bounds and choices are declared on its fields (vtjax.config).
      stages: name -> Stage, in order. The last one is driven by `config.optim` and `config.train`, those before it by
        fields of the same names in `config.stages`.
      open: (experiment, work directory) -> the model: tokenizer, encoder, jitted functions, opened data. It is opened
        once for each Run, whose `model` it is.
      evaluate: (run, *, split="", ...) -> results.
      predict: (run, *, ...) -> answers. Its signature is that of `run.predict`, and gives the flags of `vtjax.predict`.
      answer: (run, arguments of predict, answers) -> what `vtjax.predict` prints and writes.
      page: (run, results) -> the report of the run.
      check: refuses settings that cannot work together, beyond single fields.
      stages_config: dataclass of `Experiment.stages`.
      stream: (run, ...) -> live scores, where a method has them. It is `run.stream`.
      watch: (print) -> a value of predict's argument `each`, which prints scores as they come.
      layouts: published layouts of the method's own parameters, for `vtjax.convert`.
      published: (run) -> (layout, its description, parameters), to write a run in a published layout.
      levers: field of the experiment -> its values, the cheapest to run first: settings that change memory and speed,
        not what is learnt; `vtjax.plan` varies them to make a step fit.

    Raises:
      VtjaxError: a part is missing or does not fit; it is named.
    """

    name: str
    about: str
    config: type
    stages: Mapping[str, Stage]
    open: Callable[[Experiment, Path], Any]
    evaluate: Callable[..., list[Result]]
    predict: Callable[..., Any]
    answer: Callable[[Any, Mapping[str, Any], Any], Answer]
    page: Callable[[Any, Sequence[Result]], Page]
    check: Callable[[Any], None] = _nothing
    stages_config: type = Stages
    stream: Callable[..., Any] | None = None
    watch: Callable[[Callable[[str], None]], Callable] | None = None
    layouts: tuple[Layout, ...] = ()
    published: Callable[[Any], tuple[str, dict[str, Any], dict[str, Any]]] | None = None
    levers: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        def refuse(part: str, wrong: str) -> None:
            raise VtjaxError(f"method {self.name!r}: {part}: {wrong}")

        if not (isinstance(self.name, str) and self.name.isidentifier() and self.name == self.name.lower()):
            refuse("name", f"{self.name!r}; a lower-case identifier is expected")
        for part in ("config", "stages_config"):
            if not (isinstance(getattr(self, part), type) and dataclasses.is_dataclass(getattr(self, part))):
                refuse(part, f"{getattr(self, part)!r}; a dataclass is expected")
        if not self.stages or not all(isinstance(stage, Stage) for stage in self.stages.values()):
            refuse("stages", "a mapping of names to Stage, with one at least, is expected")
        *earlier, _ = self.stages
        fields = [field.name for field in dataclasses.fields(self.stages_config)]
        if earlier != fields:
            refuse("stages_config", f"has the fields {fields}; the stages before the last one are {earlier}")
        for place, (name, stage) in enumerate(self.stages.items()):
            unknown = set(stage.takes) - set(list(self.stages)[:place])
            if unknown:
                refuse(f"stages[{name!r}].takes", f"{sorted(unknown)} do not come before it")
        for part in ("open", "evaluate", "predict", "answer", "page", "check"):
            if not callable(getattr(self, part)):
                refuse(part, f"{getattr(self, part)!r}; a function is expected")
        for part in ("predict", "evaluate"):
            try:
                arguments.arguments(getattr(self, part))
            except VtjaxError as error:
                refuse(part, str(error))
        for path, values in self.levers.items():
            if not self._has(path):
                refuse("levers", f"{path!r} is no field of the experiment")
            if len(set(values)) < 2:
                refuse("levers", f"{path!r} has the values {values!r}; two different ones at least are expected")

    def _has(self, path: str) -> bool:
        """Whether an Experiment of this method has a field, by its dotted name."""
        kind: Any = Experiment
        for name in path.split("."):
            hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
            if name not in hints:
                return False
            kind = self.config if kind is Experiment and name == "method" else hints[name]
        return True

    @property
    def last_stage(self) -> str:
        """Name of the stage whose parameters are the run's."""
        return list(self.stages)[-1]

    def abstract(self, experiment: Experiment) -> Task:
        """Builds the last stage without its data.

        Raises:
          VtjaxError: settings that cannot work.
        """
        self._check(experiment)
        return self.stages[self.last_stage].abstract(experiment)

    def _check(self, experiment: Experiment) -> None:
        check_fields(experiment.method, "config.method")
        self.check(experiment.method)

    def recipe(self, experiment: Experiment, work: Path) -> dict[str, Callable[[], Task]]:
        """The stages of an experiment as functions that build them, in order.

        Raises:
          VtjaxError: settings that cannot work.
        """
        self._check(experiment)
        return {
            name: lambda stage=stage: stage.build(experiment, work)  # type: ignore[misc]
            for name, stage in self.stages.items()
            if stage.wanted(experiment)
        }
