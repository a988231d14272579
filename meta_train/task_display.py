"""What ``learned-opt tasks`` shows: suites, single tasks, loss curves, checks."""

import csv
import dataclasses
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import median

import jax
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import pretrained
import tasksets
from meta_train import evaluate
from meta_train.devices import compiler_options, use_compilation_cache
from meta_train.evaluate import Entry, panels
from tasksets.checking import Checked
from tasksets.checking import check as check_task
from tasksets.names import parse
from tasksets.registry import measured

console = Console()


def list_tasks(suite: str, limit: int) -> None:
    """All suites and families with their sizes, or the first names of one."""
    if not suite:
        table = Table("suite", "tasks", "training", "test")
        suites = tasksets.suites()
        families = [name for name in tasksets.families() if name not in suites]
        for name in (*suites, *families):
            parts = [tasksets.names(name, split) for split in ("train", "test")]
            sizes = [len(part) for part in parts]
            numbers = (f"{n:,}" for n in (sum(sizes), *sizes))
            table.add_row(name, *numbers, end_section=name == suites[-1])
        console.print(table)
        return
    names = tasksets.names(suite)
    table = Table("task", "split", "data set", "here")
    for name in names[:limit]:
        table.add_row(name, tasksets.split_of(name), *_data(name))
    console.print(table)
    if len(names) > limit:
        console.print(
            f"... {len(names) - limit:,} more; --limit {len(names)} shows all"
        )


def show(name: str) -> None:
    """A task's config, data, what its parameters look like, and what a step costs."""
    task = tasksets.get(name)
    key = jax.random.key(0)
    params = jax.eval_shape(task.init, key)
    batch = jax.eval_shape(lambda k: task.batch("train", k), key)
    table = Table(title=task.name, title_justify="left", show_header=False)
    for field, value in dataclasses.asdict(tasksets.config(name)).items():
        table.add_row(field, str(value))
    table.add_row("parameters", f"{sum(x.size for x in jax.tree.leaves(params)):,}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        table.add_row(f"  {jax.tree_util.keystr(path)}", str(leaf.shape))
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        table.add_row(f"batch {jax.tree_util.keystr(path)}", str(leaf.shape))
    table.add_row("split", tasksets.split_of(name))
    table.add_row(
        "normalised from",
        f"{float(task.numbers.initial_loss):.4g} to {float(task.numbers.best_loss):.4g}"
        f" ({'closed form' if measured(name) is None else 'measured'})",
    )
    found = check_task(name, compiler_options=compiler_options())
    table.add_row("check", " ".join([found.status, found.detail]))
    if found.status == "ok":
        table.add_row("loss at the start", f"{found.loss:.4g}")
        table.add_row("compiling", f"{found.compile_seconds:.1f} s")
        table.add_row("gradient step", f"{found.step_seconds * 1e3:.2f} ms")
    console.print(table)


def sample(count: int, suite: str, seed: int) -> None:
    """Random names of a suite, one a row, with their configs."""
    # The configs suffice here, so that tasks without data are shown too.
    names = tasksets.names(suite)
    rows = tasksets.sample_names(count, suite=suite, seed=seed, split=None)
    table = Table("task", "config", title=f"{count} of {len(names):,}", show_lines=True)
    for name in rows:
        fields = dataclasses.asdict(tasksets.config(name))
        shown = ", ".join(f"{k}={_short(v)}" for k, v in fields.items())
        table.add_row(name, shown)
    console.print(table)


def plot(name: str, path: Path, num_steps: int, num_seeds: int) -> None:
    """Trains a task with shipped optimizers and baselines and draws their losses."""
    names = (*pretrained.available(), *evaluate.AGAINST)
    task = tasksets.get(name)
    with console.status(f"training {task.name}"):
        comparison = evaluate.compare(
            [Entry(task, num_steps)],
            [evaluate.contender(name) for name in names],
            num_seeds=num_seeds,
        )
    panels.plot_losses(comparison, path, title=task.name)
    console.print(f"Loss curves in {path}")


def check(suite: str, out: Path | None, jobs: int) -> int:
    """Checks a suite, shows what was found by family; returns how many failed."""
    names = tasksets.names(suite)
    # Excluded tasks are in no suite; they are counted for the seeds that it spans.
    done = {c.name: c for c in read_checked(out)} if out is not None else {}
    left = [name for name in names if name not in done]
    with Progress(console=console, transient=True) as bar:
        line = bar.add_task(f"checking {suite}", total=len(names), completed=len(done))
        for found in check_all(left, jobs or os.cpu_count() or 1):
            done[found.name] = found
            if out is not None:
                append_checked(out, found)
            if found.status == "failed":
                console.print(f"[red]{found.name}[/]: {found.detail}")
            bar.advance(line)
    checked = [done[name] for name in names]
    console.print(_summary(suite, checked))
    slow = [c for c in checked if c.step_seconds > 0.1]
    if slow:
        console.print(
            f"{len(slow)} take over 100 ms per step: "
            + ", ".join(f"{c.name} ({c.step_seconds * 1e3:.0f} ms)" for c in slow)
        )
    return sum(c.status == "failed" for c in checked)


def _summary(suite: str, checked: Sequence[Checked]) -> Table:
    """Counts by family, with the excluded seeds among those that a suite spans."""
    statuses = ("ok", "data absent", "excluded", "failed")
    title = f"{suite}: {len(checked):,} tasks"
    table = Table("family", *statuses, "ms/step: median", "largest", title=title)
    excluded = _excluded(checked)
    groups: dict[str, list[Checked]] = {}
    for found in checked:
        groups.setdefault(_group(found.name), []).append(found)
    totals: Counter[str] = Counter()
    for group, members in groups.items():
        counts = Counter(c.status for c in members)
        counts["excluded"] += excluded[group]
        totals += counts
        times = [c.step_seconds * 1e3 for c in members if c.status == "ok"]
        shown = [f"{median(times):.1f}", f"{max(times):.1f}"] if times else ["-", "-"]
        table.add_row(group, *(f"{counts[s]:,}" for s in statuses), *shown)
    table.add_section()
    table.add_row("all", *(f"{totals[s]:,}" for s in statuses))
    return table


def _excluded(checked: Sequence[Checked]) -> Counter[str]:
    """How many seeds were passed over, by family."""
    highest: dict[str, int] = {}
    for found in checked:
        name = parse(found.name)
        highest[name.family] = max(highest.get(name.family, 0), name.seed or 0)
    roots = [parse(root) for root in tasksets.EXCLUDED]
    return Counter(
        root.family
        for root in roots
        if root.family in highest and (root.seed or 0) <= highest[root.family]
    )


def _group(name: str) -> str:
    parsed = parse(name)
    return parsed.family if parsed.seed is not None else "fixed"


def check_all(names: Sequence[str], jobs: int) -> Iterator[Checked]:
    """Checks in processes of one core each, in the order in which they finish."""
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    for core in range(jobs):
        cores.put(core)
    with ProcessPoolExecutor(
        jobs,
        context,
        _use_one_core,
        (cores, getattr(jax.config, "jax_compilation_cache_dir", None)),
    ) as pool:
        try:
            futures = [pool.submit(_check_one, name) for name in names]
            for future in as_completed(futures):
                yield future.result()
        finally:  # whoever stops early does not wait for thousands
            pool.shutdown(cancel_futures=True)


def _check_one(name: str) -> Checked:
    found = check_task(name, compiler_options=compiler_options())
    jax.clear_caches()  # no program is used twice
    return found


def _use_one_core(cores: "multiprocessing.Queue[int]", cache: str | None) -> None:
    if cache:  # a second check of a suite compiles nothing
        use_compilation_cache(cache)
    core = cores.get()
    if hasattr(os, "sched_setaffinity"):  # not on every system
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[core % len(allowed)]})


def read_checked(path: Path) -> list[Checked]:
    if not path.exists():
        return []
    kinds = {f.name: f.type for f in dataclasses.fields(Checked)}
    parse_value = {int: int, float: float}
    with path.open(newline="") as file:
        return [
            Checked(**{k: parse_value.get(kinds[k], str)(v) for k, v in row.items()})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def append_checked(path: Path, found: Checked) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        row = dataclasses.asdict(found)
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _data(name: str) -> tuple[str, str]:
    dataset = tasksets.dataset_of(name)
    if dataset is None:
        return "-", "[green]yes[/]"
    here = tasksets.data_present(dataset)
    return dataset, "[green]yes[/]" if here else "[dim]no[/]"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
