"""How every `python -m vtjax.<main>` starts: the user's errors are one message and status 2, never a traceback."""

from __future__ import annotations

import dataclasses
import errno
import logging as python_logging
import pathlib
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vtjax.errors import VtjaxError, nearest


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> None:
    """`absl.app.run(main)`, which exits with what `main` returns; exits with 2 on a user's error or a full disk, 130
    when interrupted.

    Of several processes each reports to the others why it ends, and ends with 75 where another one is gone.
    """
    from absl import app

    def joined(arguments: Sequence[str]) -> int | None:
        status = main(arguments)
        processes = _processes()
        if processes is not None:
            processes.leave()
        return status

    try:
        app.run(joined, argv=argv, flags_parser=_parse)  # type: ignore[call-overload]
    except VtjaxError as error:
        stop(f"error: {error}", error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            _end_with_others(error)
            raise
        stop(f"error: the disk is full: {error}", error)
    except KeyboardInterrupt as error:
        print("stopped by Ctrl-C", file=sys.stderr, flush=True)
        _end_with_others(error)
        sys.exit(130)
    except Exception as error:
        _end_with_others(error)
        raise


def _processes() -> Any:
    """vtjax.hosts.processes where a main has imported it."""
    return sys.modules.get("vtjax.hosts.processes")


def _end_with_others(error: BaseException) -> None:
    """Ends all processes on an unexpected error, with the name of the lost one where that is the cause of it."""
    processes = _processes()
    if processes is None:
        return
    if processes.broke(error):
        lost = processes.lost_to(error)
        stop(f"error: {lost}", lost)
    if processes.several() and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    processes.fail(f"{type(error).__name__}: {error}", 130 if isinstance(error, KeyboardInterrupt) else 1)


def stop(message: str, error: BaseException | None = None) -> NoReturn:
    """Prints a message and exits with status 2, or 75 where another process was lost."""
    print(message, file=sys.stderr, flush=True)
    status, processes = 2, _processes()
    if processes is not None:
        lost = error.lost if isinstance(error, processes.LostProcess) else ()
        status = processes.LOST if isinstance(error, processes.LostProcess) else 2
        processes.fail(message.removeprefix("error: "), status, lost)
    sys.exit(status)


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parsing, with an unknown field of --config named together with the nearest one."""
    from absl import flags

    if any(a in ("--help", "--helpfull", "--helpshort", "-h", "-help") for a in argv):
        from absl import app

        try:
            return app.parse_flags_with_usage(list(argv))
        finally:
            print(_settings_help(argv), end="")
    try:
        return flags.FLAGS(list(argv))
    except KeyError as error:
        unknown = re.search(r"(?:Field |>\.)(\S+) (?:not found|does not exist)", str(error))
        if not unknown:
            raise
        raise VtjaxError(_unknown_field(unknown.group(1), argv)) from None
    except flags.Error as error:
        # config_flags wraps what get_config raised in a formatted traceback; its last line is the message.
        message = str(error).strip().splitlines()[-1].strip().removeprefix("vtjax.errors.VtjaxError: ")
        raise VtjaxError(f"{message}\nPass --help to see the flags.") from None


def _settings_help(argv: Sequence[str]) -> str:
    """The fields of --config with their values and meanings; "" for a program without --config."""
    from absl import flags

    if "config" not in flags.FLAGS:
        return ""
    experiment = _config_value(argv)
    if experiment is None:
        return "\nWith --config=FILE[:variant], --help also lists the fields of the configuration, each a flag.\n"
    from vtjax.config import settings

    lines = ["", "configuration:", ""]
    for setting in settings(experiment):
        value = ",".join(map(str, setting.value)) if isinstance(setting.value, tuple) else setting.value
        lines.append(f"  --{setting.path}: {setting.about}".rstrip(": "))
        lines.append(f"    (default: {str(value)!r}, {setting.kind})")
    return "\n".join(lines) + "\n"


def _unknown_field(field: str, argv: Sequence[str]) -> str:
    flag = next((a for a in argv if re.match(rf"--config\.[^=]*\b{re.escape(field)}\b", a)), f"--config...{field}")
    path = flag.split("=", 1)[0]
    parts = path.removeprefix("--config.").split(".")
    holder: Any = _config_value(argv)
    for part in parts[: parts.index(field)] if field in parts else []:
        holder = getattr(holder, part, holder)
    known = [f.name for f in dataclasses.fields(holder)] if dataclasses.is_dataclass(holder) else []
    return f"{path}: {type(holder).__name__} has no field {field!r}; {nearest(field, known)}"


def _config_value(argv: Sequence[str]) -> Any:
    from vtjax.config import load_config_file

    spec = _config_spec(argv)
    return load_config_file(spec) if spec else None


def _config_spec(argv: Sequence[str]) -> str:
    """The text of --config=FILE[:variant] or --config FILE[:variant], "" where it is not given."""
    spec = next((a.split("=", 1)[1] for a in argv if a.startswith("--config=")), "")
    return argv[argv.index("--config") + 1] if not spec and "--config" in argv[:-1] else spec


def define_config() -> None:
    """Defines --config=FILE[:variant] and its --config.x.y=value overrides."""
    from ml_collections import config_flags

    about = "A file under configs/, with :variant; --config.x.y=value overrides, once for each string of a list."
    config_flags.DEFINE_config_file("config", None, about)


def define_hosts() -> None:
    """Defines the flags of a program that runs as several processes, one or more a host."""
    from absl import flags

    flags.disclaim_key_flags()  # they are flags of the program that calls this, and among its --help
    flags.DEFINE_enum(
        "multihost", "auto", ["auto", "on", "off"],
        "Join other processes: those of the flags below or of the environment (Cloud TPU, GKE and JobSet, Slurm, Open "
        "MPI); on: insist that there are some; off: do not look.",
    )  # fmt: skip
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where the environment does not tell.")
    flags.DEFINE_integer("processes", -1, "Number of processes, with --coordinator.")
    flags.DEFINE_integer("process", -1, "This process's place among them, from 0, with --coordinator.")
    flags.DEFINE_float("startup_seconds", 300, "Time limit for all processes to join; the missing are named.")
    flags.DEFINE_float("save_seconds", 600, "Time limit for all processes to reach a save, and for the save.")
    flags.DEFINE_float("heartbeat_seconds", 10, "Time between heartbeats (heartbeats/ in the work directory).")
    flags.DEFINE_float("lost_seconds", 100, "Silence after which a process is given up.")


def join(work: Any, program: str = "") -> None:
    """Joins the other processes by the flags of `define_hosts`; heartbeats go into `work`, None is nowhere.

    program: keeps the heartbeats of another than vtjax.train apart.
    """
    from absl import flags

    from vtjax.hosts import heartbeat, processes

    f = flags.FLAGS
    limits = processes.Limits(
        startup=f.startup_seconds, save=f.save_seconds, heartbeat=f.heartbeat_seconds, lost=f.lost_seconds
    )
    folder = None if work is None else work / "-".join(filter(None, (heartbeat.FOLDER, program)))
    processes.join(
        f.multihost, folder, limits=limits, coordinator=f.coordinator, processes=f.processes, process=f.process
    )


def experiment() -> tuple[Any, str]:
    """The Experiment of --config with its overrides, and the flag's text.

    Raises:
      VtjaxError: no --config, no such file, or settings that cannot work.
    """
    from absl import flags

    from vtjax import config

    spec = _config_spec(sys.argv)
    if not spec:
        raise VtjaxError("--config is needed, for example --config=configs/car.py or --config=configs/car.py:smoke")
    if not pathlib.Path(spec.split(":")[0]).is_file():
        example = "for example configs/car.py or configs/car.py:smoke"
        raise VtjaxError(f"--config={spec}: no file {spec.split(':')[0]!r}; {example}")
    value = flags.FLAGS.config
    config.check(value)
    return value, spec


def default_work(spec: str) -> str:
    """runs/<config>-<variant> for a --config value."""
    path, _, variant = spec.partition(":")
    return f"runs/{pathlib.Path(path).stem}-{re.sub(r'[^A-Za-z0-9_.-]', '_', variant or 'demo')}"


def is_main_host() -> bool:
    """True on the process that writes reports."""
    from vtjax.hosts import processes

    return processes.index_of() == 0


def quiet_libraries() -> None:
    """Keeps other libraries' chatter from burying ours; their warnings and errors stay."""
    from absl import logging

    noisy = re.compile(r"(orbax|array_record|grain|tensorstore|jax/_src|jax\._src)")

    class Ours(python_logging.Filter):
        def filter(self, record: python_logging.LogRecord) -> bool:
            # What fails in its threads and tasks reaches us as an exception.
            asynchronous = record.name == "asyncio" and "orbax" in record.getMessage()
            if record.exc_info and (asynchronous or "orbax" in record.pathname):
                return False
            return record.levelno >= python_logging.WARNING or not noisy.search(record.pathname)

    logging.get_absl_handler().addFilter(Ours())
    metadata = python_logging.Filter()
    metadata.filter = lambda record: "Metadata file does not exist" not in record.getMessage()  # type: ignore[method-assign]
    logging.get_absl_handler().addFilter(metadata)
    warnings.filterwarnings("ignore", message=".*Sharding info not provided.*")

    default_hook = sys.unraisablehook

    def unraisable(problem: Any) -> None:
        # The writes beside one that failed end after Orbax has left their event loop; the failure itself reaches us.
        if not (isinstance(problem.exc_value, RuntimeError) and str(problem.exc_value) == "Event loop is closed"):
            default_hook(problem)

    sys.unraisablehook = unraisable
