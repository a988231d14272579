"""The command line ``learned-opt``: one frozen dataclass per command, parsed by tyro."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from meta_train.checkpoint import CheckpointError
from meta_train.config import TrainConfig
from meta_train.curriculum import AbsentData
from meta_train.devices import program_folder, use_all_cores, use_compilation_cache
from meta_train.durations import budget

if TYPE_CHECKING:
    from meta_train.evaluate import Evaluation

console = Console()


@dataclasses.dataclass(frozen=True)
class Train:
    """Meta-train a learned optimizer; stop it at any time, go on with --resume.

    Example: learned-opt train --optimizer scale_free --folder runs/mine --time-budget 9m
    """

    config: TrainConfig
    folder: Path = Path("runs/train")
    """Run folder: config, metrics, plots, checkpoints and the resulting theta."""
    resume: bool = False
    """Go on with the run in the folder, whose config counts where no flag is given."""
    time_budget: str = ""
    """Stop cleanly, with a checkpoint, after this long: 90s, 9m, 1.5h."""
    distributed: bool = False
    """Join the other processes of a job of SLURM, Kubernetes, MPI or a TPU pod."""
    coordinator: str = ""
    """Join the processes that are told this address of the first one, host:port."""
    num_processes: int | None = None
    """How many processes those are."""
    process_id: int | None = None
    """Which of them this one is, from 0."""
    elastic: int | None = None
    """Train with so many workers that may come and go; needs the extra ray."""
    staleness: int = 5
    """Of workers: older gradients, in outer steps, are dropped."""
    ray_address: str = ""
    """The Ray cluster they run on, or 'auto'; empty: this machine alone."""
    worker_cpus: int = 1
    """CPU cores of each."""
    worker_gpus: float = 0.0
    """GPUs of each; 0.25 lets four share one."""

    then_evaluate: str = ""
    """Then evaluate on this suite, as `learned-opt evaluate` does, however far it came."""
    evaluation_budget: str = ""
    """How much of the time budget is kept for that; default: a third."""

    def __call__(self) -> None:
        from meta_train import train_command

        train_command.train(self)

    def as_begun(self) -> "Train":
        """A command without flags, but for the config of the run in the folder, if any.

        Raises:
          ValueError: that config is damaged.
        """
        from meta_train.run import holds_run

        path = self.folder / "config.json"
        return Train(
            TrainConfig.load(path) if holds_run(self.folder) else TrainConfig()
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """A run on one HTML page that needs no network, at any moment of the run.

    Example: learned-opt report runs/mine
    """

    folder: tyro.conf.Positional[Path]
    """The run folder; gets report.html."""

    def __call__(self) -> None:
        from meta_train import report

        console.print(f"Report: {report.write(self.folder)}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Compare optimizers with tuned baselines on held-out tasks.

    Example: learned-opt evaluate scale_free runs/mine --suite eval-small

    Optimizers are pretrained names, run folders, folders written by `pretrained.save`,
    files of released weights (VeLO's), learned ones before training
    (scale_free:untrained), or baselines: adam:tuned, adam:lr=1e-3, adam:global,
    adamw_cosine:tuned, sgd:tuned, opt_list:10, nadamw:lr=1e-2, prodigy, dowg, dog,
    dadapt_adamw, momo_adam, schedule_free_adamw, muon. Results are kept; what was run
    once is not run again.
    """

    optimizers: tyro.conf.Positional[tuple[str, ...]]
    against: tuple[str, ...] = ("adam:tuned", "adam:lr=0.001", "prodigy")
    """Baselines to run beside them; 'all' is every one there is."""
    suite: str = "eval-small"
    """eval-small, eval-100, width, depth, batch-size, dataset-size, horizon, families,
    datasets, tabular, cifar10, text, reconstruction, ill-conditioned, pinn, bf16, or a
    suite of tasks (its held-out ones)."""
    num_tasks: int | None = None
    """The first so many of the suite."""
    task_options: str = ""
    """Fields to fix in every task, e.g. 'hidden=32&activation=relu'."""
    horizon: int = 2000
    """Training steps of each run, a multiple of 25."""
    seeds: int = 3
    tuning_seeds: int = 1
    """How many of the seeds choose among the trials of what is tuned."""
    timed: bool = False
    """Measure what a step takes too, one optimizer after the other; rather alone."""
    split: Literal["test", "outer_valid"] = "test"
    """Whose losses count; outer_valid keeps the test data unseen while you develop."""
    budget: str = ""
    """Begin nothing more after this long: 90s, 9m, 1.5h. The same command goes on."""
    folder: Path = Path("runs/evaluate")
    """Gets tables, pictures, and index.html with all of them."""
    cache: Path | None = None
    """Where results are kept; default: learned-opt/evaluations in the user's cache."""

    def __call__(self) -> None:
        from meta_train import evaluate_display

        evaluate_display.run(self, budget(self.budget))

    @property
    def evaluation(self) -> "Evaluation":
        """What is asked for, without how it is shown."""
        from meta_train.evaluate import Evaluation

        names = (field.name for field in dataclasses.fields(Evaluation))
        return Evaluation(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class ListTasks:
    """The suites, or the names in one of them."""

    suite: str = ""
    limit: int = 20

    def __call__(self) -> None:
        from meta_train import task_display

        task_display.list_tasks(self.suite, self.limit)


@dataclasses.dataclass(frozen=True)
class ShowTask:
    """One task: its config, data, parameters and cost."""

    name: tyro.conf.Positional[str]

    def __call__(self) -> None:
        from meta_train import task_display

        task_display.show(self.name)


@dataclasses.dataclass(frozen=True)
class SampleTasks:
    """A few names of a suite, drawn at random, with their configs."""

    count: tyro.conf.Positional[int] = 20
    suite: str = "taskset"
    seed: int = 0

    def __call__(self) -> None:
        from meta_train import task_display

        task_display.sample(self.count, self.suite, self.seed)


@dataclasses.dataclass(frozen=True)
class PlotTask:
    """Loss curves of a few optimizers on one task, as a PNG."""

    name: tyro.conf.Positional[str]
    out: Path = Path("task.png")
    num_steps: int = 500
    num_seeds: int = 3

    def __call__(self) -> None:
        from meta_train import task_display

        task_display.plot(self.name, self.out, self.num_steps, self.num_seeds)


@dataclasses.dataclass(frozen=True)
class CheckTasks:
    """Build, initialise and take gradient steps on every task of a suite."""

    suite: str = "taskset-1k"
    out: Path | None = None
    """CSV of what was found; a check that was stopped goes on from it."""
    jobs: int = 0
    """Processes, each on a core of its own; 0: all cores."""

    def __call__(self) -> None:
        from meta_train import task_display

        if task_display.check(self.suite, self.out, self.jobs):
            sys.exit(1)


@dataclasses.dataclass(frozen=True)
class Tasks:
    """The inner problems by name.

    Example: learned-opt tasks list --suite small_mlp
    """

    action: (
        Annotated[ListTasks, tyro.conf.subcommand("list")]
        | Annotated[ShowTask, tyro.conf.subcommand("show")]
        | Annotated[SampleTasks, tyro.conf.subcommand("sample")]
        | Annotated[PlotTask, tyro.conf.subcommand("plot")]
        | Annotated[CheckTasks, tyro.conf.subcommand("check")]
    )

    def __call__(self) -> None:
        self.action()


@dataclasses.dataclass(frozen=True)
class ListData:
    """The data sets that tasks name, and which of them are here."""

    def __call__(self) -> None:
        from meta_train import data_command

        data_command.list_data()


@dataclasses.dataclass(frozen=True)
class PrepareData:
    """Download a data set and prepare it; needs the extras data and prepare."""

    name: tyro.conf.Positional[str]
    """As tasks name it: mnist, food101_32x32, lm1b."""
    data_dir: Path | None = None
    """Where to; default: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""

    def __call__(self) -> None:
        from meta_train import data_command

        data_command.prepare_data(self.name, self.data_dir)


@dataclasses.dataclass(frozen=True)
class ExportData:
    """Copy data sets that are prepared here for a machine without network.

    Example: learned-opt data export small eval-small --folder exported

    There TFDS_DATA_DIR names the copy, and neither tensorflow nor tensorflow-datasets is
    needed. Needs the extra data here.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """Suites, to train or to evaluate on, or data sets."""
    folder: Path = Path("exported")
    """Where to; what is there already stays."""
    absent_data: AbsentData = "error"
    """What to do with data sets that are not prepared here."""

    def __call__(self) -> None:
        from meta_train import data_command

        leave_out = self.absent_data == "leave out"
        data_command.export_data(self.names, self.folder, leave_out=leave_out)


@dataclasses.dataclass(frozen=True)
class Data:
    """The data sets of tasks.

    Example: learned-opt data prepare mnist
    """

    action: (
        Annotated[ListData, tyro.conf.subcommand("list")]
        | Annotated[PrepareData, tyro.conf.subcommand("prepare")]
        | Annotated[ExportData, tyro.conf.subcommand("export")]
    )

    def __call__(self) -> None:
        self.action()


@dataclasses.dataclass(frozen=True)
class ListPretrained:
    """The trained optimizers that ship with this package."""

    def __call__(self) -> None:
        from meta_train import display

        display.list_pretrained()


@dataclasses.dataclass(frozen=True)
class ShowPretrained:
    """The card of a trained optimizer."""

    name: tyro.conf.Positional[str]
    """A shipped name, or a folder."""

    def __call__(self) -> None:
        from meta_train import display

        display.show_pretrained(self.name)


@dataclasses.dataclass(frozen=True)
class PretrainedCommand:
    """The trained optimizers and their cards.

    Example: learned-opt pretrained list
    """

    action: (
        Annotated[ListPretrained, tyro.conf.subcommand("list")]
        | Annotated[ShowPretrained, tyro.conf.subcommand("show")]
    )

    def __call__(self) -> None:
        self.action()


@dataclasses.dataclass(frozen=True)
class Optimizers:
    """The learned optimizers that can be trained.

    Example: learned-opt optimizers
    """

    def __call__(self) -> None:
        from meta_train import display

        display.list_optimizers()


@dataclasses.dataclass(frozen=True)
class Demo:
    """Meta-train on real images for a few minutes, then compare on tasks never seen.

    Example: learned-opt demo --folder runs/demo
    """

    optimizer: str = "scale_free"
    """What to train; 'hierarchical' takes the same path and needs far longer."""
    folder: Path = Path("runs/demo")
    resume: bool = False
    """Go on with a demonstration that was stopped."""
    time_budget: str = "160s"
    """For the training alone; it normally finishes before."""
    outer_steps: int | None = None
    """Train for this many outer steps instead of the optimizer's usual number."""
    seed: int = 0

    def __call__(self) -> None:
        from meta_train import display

        display.demo(self, budget(self.time_budget))


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Run experiments of the literature and hold their claims against the outcome.

    Example: learned-opt reproduce influence-balancing toy-regression
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """None lists what there is."""
    all: bool = False
    """Every experiment, one after the other."""
    full: bool = False
    """The size of the paper instead of minutes on two cores."""
    folder: Path = Path("runs/reproduce")
    """Gets a folder for each experiment: figure, table, verdict."""

    def __call__(self) -> None:
        from meta_train import reproduce

        names = reproduce.EXPERIMENTS if self.all else self.names
        if names:
            reproduce.reproduce(list(names), self.full, self.folder)
        else:
            reproduce.list_experiments()


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Tasks, tyro.conf.subcommand("tasks")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Optimizers, tyro.conf.subcommand("optimizers")]
    | Annotated[PretrainedCommand, tyro.conf.subcommand("pretrained")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point; errors of the user come out as one sentence, not as a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    config = (
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.OmitArgPrefixes,
        tyro.conf.FlagCreatePairsOff,
    )
    command: Any = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="learned-opt",
        description="Learned optimizers in JAX: meta-train one, use one.",
        args=arguments,
        config=config,
    )
    use_all_cores()
    if not isinstance(command, Train):  # whose programs are kept in its run folder
        use_compilation_cache(program_folder())
    try:
        if isinstance(command, Train) and command.resume:
            begun = command.as_begun()
            command = tyro.cli(Train, args=arguments[1:], default=begun, config=config)
        command()
    except (LookupError, ValueError, OSError, ImportError, CheckpointError) as error:
        if os.environ.get("LEARNED_OPT_TRACEBACK"):
            raise
        console.print(
            f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
