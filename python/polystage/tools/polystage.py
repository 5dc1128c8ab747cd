"""polystage: from a model file to a verified, simulated run."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

import click

from polystage.compiled import uses_core
from polystage.errors import PolystageError
from polystage.tools import run as runs
from polystage.tools.explore import explore
from polystage.tools.output import check_writable, write_atomically
from polystage.tools.phases import Phases
from polystage.tools.report import report
from polystage.tools.targets import describe_target, target_table

FAILED_CHECK = 2
"""Exit code where the outputs differ from the reference; every other failure is 1."""

Command = TypeVar("Command", bound=Callable[..., Any])


def print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    """Print what is installed, and end."""
    if asked:
        core = "compiled core" if uses_core() else "without compiled core"
        click.echo(f"polystage, version {version('polystage')}, {core}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version, and whether the compiled core is used; then exit.",
)
def cli() -> None:
    """Compile deep-learning models for scratchpad accelerators, and simulate them."""


def model_options(command: Command) -> Command:
    """Add the options of everything that reads a model."""
    command = click.option(
        "--batch",
        type=click.IntRange(min=1),
        metavar="N",
        help="Items in the first dimension of the inputs, whatever the model has there.",
    )(command)
    command = click.option(
        "--bind",
        "bindings",
        multiple=True,
        metavar="NAME=VALUE",
        help="Extent of a dynamic dimension, e.g. batch=1; repeatable.",
    )(command)
    return click.argument("model", metavar="MODEL")(command)


def compiler_options(command: Command) -> Command:
    """Add the options of everything that compiles."""
    for option in reversed(
        [
            click.option(
                "--target",
                help="A preset (see `polystage targets`) or a TOML file. "
                f"[default: {runs.DEFAULT_TARGET}]",
            ),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="Change a value of the target; repeatable.",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["f32", "bf16", "f16", "f8"]),
                help="Arithmetic of the program. [default: what the target does best]",
            ),
            click.option(
                "--objective",
                type=click.Choice(["traffic", "latency", "energy"]),
                help="What fusion minimises. [default: traffic]",
            ),
            click.option(
                "--explain",
                is_flag=True,
                help="Say on standard error why operators run together or apart.",
            ),
            click.option(
                "--pipeline",
                default="",
                metavar="PIPELINE",
                help="Textual pipeline instead of the default one.",
            ),
        ]
    ):
        command = option(command)
    return command


@cli.command("import")
@model_options
@click.option("-o", "output", default="-", help="File to write; - is standard output.")
def import_command(model: str, bindings: Sequence[str], batch: int | None, output: str) -> None:
    """Print a model as MLIR: linalg on tensors, or as the file has it.

    MODEL is ONNX, PyTorch (.pt2), StableHLO or MLIR.
    """
    phases = Phases()
    with runs.located(model):
        imported = runs.load_model(model, bindings, phases, batch)
    _write_module(output, imported.module, with_names=True)


@cli.command("compile")
@model_options
@compiler_options
@click.option("-o", "output", default="-", help="File to write; - is standard output.")
def compile_command(
    model: str, bindings: Sequence[str], batch: int | None, output: str, **options: Any
) -> None:
    """Compile MODEL to an npu program and print it as MLIR."""
    check_writable(output)
    phases = Phases()
    with runs.located(model):
        imported = runs.load_model(model, bindings, phases, batch)
        program = runs.compile_model(imported, runs.CompilerOptions(**options), phases)
    _write_module(output, program)


@cli.command("run")
@model_options
@compiler_options
@click.option("--inputs", default="", metavar="NPZ", help="Inputs by name. [default: random]")
@click.option("--outputs", default="", metavar="NPZ", help="Write the outputs by name.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the random inputs.",
)
@click.option("--timing-only", is_flag=True, help="Count time and bytes without computing.")
@click.option(
    "--order",
    type=click.Choice(["concurrent", "interlocked", "sequential"]),
    default=None,
    help="How engines wait for each other: for the program's semaphores, as hardware that detects "
    "every dependence, or for every instruction before. [default: concurrent where the program has "
    "semaphores, else interlocked]",
)
@click.option(
    "--inferences",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Executions of the program on every core; the next begins as soon as engines are free.",
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Cores that execute the program and share the DRAM bandwidth of the device.",
)
@click.option("--json", "json_file", default="", metavar="FILE", help="Write the report as JSON.")
@click.option("--html", "html_file", default="", metavar="FILE", help="Write it as a web page.")
@click.option(
    "--trace",
    "trace_file",
    default="",
    metavar="FILE",
    help="Write when what ran, in microseconds, for Perfetto or chrome://tracing.",
)
def run_command(
    model: str,
    bindings: Sequence[str],
    batch: int | None,
    inputs: str,
    outputs: str,
    seed: int,
    timing_only: bool,
    order: str | None,
    inferences: int,
    cores: int,
    json_file: str,
    html_file: str,
    trace_file: str,
    **options: Any,
) -> None:
    """Compile MODEL, simulate it, check the outputs against a reference, and report.

    Exit code 2: the outputs differ from the reference.
    """
    check_writable(outputs, json_file, html_file, trace_file)
    done = runs.run_model(
        model,
        bindings,
        batch,
        runs.CompilerOptions(**options),
        runs.RunOptions(inputs, seed, timing_only, order or "", inferences, cores),
    )
    if outputs:
        write_atomically(outputs, done.outputs_npz())
    for file, text in ((json_file, done.json), (html_file, done.html), (trace_file, done.trace)):
        if file:
            write_atomically(file, text())
    done.print_report()
    if done.failed():
        raise click.exceptions.Exit(FAILED_CHECK)


@cli.command("report")
@click.argument("reports", nargs=-1, required=True, metavar="BEFORE.json [AFTER.json]")
@click.option("--html", default="", metavar="FILE", help="Write it as a web page.")
def report_command(reports: Sequence[str], html: str) -> None:
    """Show a run that was written with --json, or two of them beside each other."""
    report(reports, html)


@cli.command("targets")
@click.argument("name", required=False)
def targets_command(name: str | None) -> None:
    """List the preset targets, or every value of the target NAME with what it means."""
    click.echo(describe_target(name) if name else target_table(), nl=False)


cli.add_command(explore)


def _write_module(output: str, module: Any, with_names: bool = False) -> None:
    """Write MLIR, on request with the names of layers, which are the locations of operations."""
    text = module.operation.get_asm(enable_debug_info=with_names)
    text += "" if text.endswith("\n") else "\n"
    if output == "-":
        click.echo(text, nl=False)
    else:
        write_atomically(output, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool and return its exit code."""
    try:
        code = cli.main(args=arguments, prog_name="polystage", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        _print_error(error.format_message(), "see --help")
    except PolystageError as error:
        place = f"{error.location}: " if error.location else ""
        _print_error(place + error.message, error.help)
    except (click.Abort, KeyboardInterrupt):
        print("polystage: interrupted", file=sys.stderr)
    return 1


def _print_error(message: str, help: str) -> None:
    remedy = f"\nhelp: {help}" if help else ""
    print(f"polystage: error: {message}{remedy}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
