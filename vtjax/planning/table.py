"""A plan as text that a person can decide by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtjax.planning.memory import Tensor
from vtjax.planning.report import SHOWN, Plan


def size(count: float) -> str:
    """Bytes in the unit that reads best."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= factor:
            return f"{count / factor:,.2f} {unit}"
    return f"{count:.0f} B"


def seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{1e3 * value:,.2f} ms"


def _rows(rows: Sequence[tuple[str, str]], indent: str = "  ") -> list[str]:
    wide = max((len(name) for name, _ in rows), default=0)
    return [f"{indent}{name.ljust(wide)}  {value:>12}" for name, value in rows]


def headline(plan: Plan) -> str:
    """One line: where, how laid out, how many."""
    mesh = " ".join(f"{axis}={n}" for axis, n in plan.mesh.items())
    parts = f" in {plan.accumulate} parts" if plan.accumulate > 1 else ""
    remat = f", remat {plan.remat or 'none'}" if plan.remat is not None else ""
    return f"{plan.topology}: {plan.topology.chips} chips, {mesh}, batch {plan.batch_size:,}{parts}{remat}"


def format_plan(plan: Plan) -> str:
    """The whole table."""
    m = plan.memory
    lines = [headline(plan), f"{plan.parameters:,} parameters", "", "memory per chip"]
    rows = [("parameters that learn", size(m.parameters)), ("frozen parameters", size(m.frozen))]
    rows += [("optimizer state", size(m.optimizer)), ("batch", size(m.batch))]
    if plan.fits:
        rows += [
            ("padding of these", size(m.padding)),
            ("activations kept, about", size(min(m.activations, m.temporaries))),
            ("other temporaries", size(max(m.temporaries - m.activations, 0.0))),
            ("outputs not donated", size(m.outputs)),
            ("total, as XLA counts", size(m.total)),
        ]
    else:
        rows += [("activations kept, about", size(m.activations)), ("XLA needs", size(plan.needed))]
    if plan.available:
        rows.append(("usable HBM", size(plan.available)))
    lines += _rows(rows)
    whole = sum(t.bytes for t in plan.replicated)
    lines.append(f"  on every chip alike: {size(whole)} of the state in {len(plan.replicated)} arrays")
    if not plan.fits:
        lines += ["", "DOES NOT FIT; the largest tensors on a chip:", *tensors(plan.largest)]
        return "\n".join(lines)
    lines += ["", "work per step"]
    again = plan.executed_flops / plan.model_flops - 1 if plan.model_flops else 0.0
    lines += _rows([
        ("model FLOPs", f"{plan.model_flops:.4g}"),
        ("executed, with what is computed again", f"{plan.executed_flops:.4g} ({100 * again:+.0f} %)"),
        ("HBM traffic per chip, about", size(plan.hbm_bytes or 0.0)),
    ])  # fmt: skip
    if plan.open_loops:
        lines.append(f"  {plan.open_loops} loops of unknown length were counted once")
    lines += ["", "sent per chip and step                ICI           DCN          time"]
    for kind, row in (plan.collectives or {}).items():
        time = seconds(row["ici_seconds"] + row["dcn_seconds"]) if plan.times else "-"
        lines.append(f"  {kind:<22}{size(row['ici_bytes']):>18}{size(row['dcn_bytes']):>14}{time:>14}")
    if not plan.collectives:
        lines.append("  nothing")
    if plan.times:
        t, mfu = plan.times, 100 * (plan.mfu or 0.0)
        lines += ["", "a step takes at least"]
        lines += _rows([("matrix products", seconds(t.products)), ("HBM", seconds(t.hbm)), ("ICI", seconds(t.ici)),
                        ("DCN", seconds(t.dcn))])  # fmt: skip
        lines.append(f"  bound by {t.bound}: {seconds(t.step)}; if nothing overlapped: {seconds(t.serial)}")
        lines.append(
            f"  at best {plan.examples_per_second:,.0f} examples/s, MFU {mfu:.0f} % "
            f"(without overlap {mfu * t.step / t.serial:.0f} %)"
        )
        lines.append(f"  chips needed: {plan.topology.chips} as planned; by memory alone at least {plan.fewest_chips}")
    lines += ["", "largest tensors on a chip", *tensors(plan.largest[:4]), f"compiled in {plan.compile_seconds:.0f} s"]
    return "\n".join(lines)


def tensors(largest: Sequence[Tensor]) -> list[str]:
    """One line each, at most `SHOWN`."""
    return [f"  {size(t.bytes):>12}  {t.shape}  {t.name}" for t in largest[:SHOWN]] or ["  XLA names none"]


def format_ranking(plans: Sequence[Plan], refused: Sequence[str] = ()) -> str:
    """Plans side by side, in their order."""
    lines = [f"{'':>3} {'data':>5} {'fsdp':>5} {'tensor':>6} {'batch':>8} {'parts':>5} {'remat':<14}"
             f"{'memory':>12} {'step':>10} {'examples/s':>11} {'MFU':>5}  bound by"]  # fmt: skip
    for rank, p in enumerate(plans, 1):
        first = f"{rank:>3} {p.mesh['data']:>5} {p.mesh['fsdp']:>5} {p.mesh['tensor']:>6} {p.batch_size:>8} "
        first += f"{p.accumulate:>5} {p.remat or 'none':<14}{size(p.needed):>12}"
        if not p.fits:
            lines.append(f"{first}   does not fit")
        elif p.times is None:
            lines.append(first)
        else:
            rate = f"{p.examples_per_second:>11,.0f} {100 * (p.mfu or 0.0):>4.0f}%"
            lines.append(f"{first} {seconds(p.times.step):>10} {rate}  {p.times.bound}")
    return "\n".join([*lines, *(f"  not tried: {reason}" for reason in refused)])


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings as flags of the mains."""
    return " ".join(f"--config.{name}={value}" for name, value in settings.items()) or "as it is"
