"""The table of commands. It defines the help, `fungi list`, the stages of the grid and the flags of grid jobs.

A row names a module, which is imported when the command is called. The module defines

    DESCRIPTION              text of --help
    run(settings)            does the work; the class that annotates its parameter defines the flags
    show(settings, result)   optional: prints the result of `run`

or, if the command passes its arguments to another command, `main(arguments) -> exit status`. Modules import slow
libraries inside functions, so that help is fast.

A command with a `stage` runs over the grid. The grid passes the flags --root, --dataset, --backbone, --split, --shard
and --data-dir to the command if its settings have them. The method `outputs()` of the settings returns the files that
exist after the command has finished.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any, Literal, get_args

from fungi.errors import unknown_name
from fungi.runtime.command import run_command
from fungi.settings import parse

Stage = Literal["projection", "extraction", "merge", "evaluation", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Stages of the grid, in the order in which they run."""
Group = Literal["First steps", "Features", "Evaluation", "Paper and reports", "Cluster", "Pretraining with UDI"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""Headings of `fungi --help`, in this order."""
CLASSIFICATION_METRICS = ("accuracy", "mean-per-class-accuracy")
SEGMENTATION_METRICS = ("mIoU",)


@dataclass(frozen=True)
class Command:
    """A row of the table.

    name: key of the table, also accepted on the command line.
    module: module of the command, imported when the command is called.
    group: heading of the command in `fungi --help`.
    help: one line for `fungi --help`.
    typed_as: words after `fungi`, if they differ from the name (`udi pretrain`).
    file: top-level file that runs the same command; messages name this file.
    stage: stage of the grid; None for a command that does not run over the grid.
    metrics: an evaluation of the grid runs over the datasets that have one of these metrics.
    """

    name: str
    module: str
    group: Group
    help: str
    typed_as: str = ""
    file: str = ""
    stage: Stage | None = None
    metrics: tuple[str, ...] = CLASSIFICATION_METRICS

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the command after `fungi`."""
        return tuple((self.typed_as or self.name).split())

    @property
    def program(self) -> str:
        """Name of the command in messages."""
        return self.file or " ".join(("fungi", *self.words))

    @property
    def settings_type(self) -> type[Any]:
        """Class that defines the flags: the annotation of the parameter of `run`."""
        (parameter,) = signature(self._load().run).parameters.values()
        assert isinstance(parameter.annotation, type), f"{self.module}.run needs an annotation"
        return parameter.annotation

    def parse(self, flags: Sequence[str]) -> Any:
        """Return the settings for `flags`. Raises FungiError for wrong flags."""
        return parse(self.settings_type, flags, program=self.program, description=self._load().DESCRIPTION)

    def main(self, arguments: Sequence[str] | None = None, *, program: str | None = None) -> int:
        """Run the command and return the exit status.

        arguments: words after the name of the command; by default the arguments of the process.
        program: name of the command in messages; by default `self.program`.
        """
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        module = self._load()
        if hasattr(module, "main"):
            return int(module.main(arguments))
        show = getattr(module, "show", None)
        run = (lambda settings: show(settings, module.run(settings))) if show else module.run
        program = program or self.program
        # The examples in the help name the command as the user has called it.
        description = module.DESCRIPTION.replace(f"python {self.file}", program) if self.file else module.DESCRIPTION
        return run_command(self.settings_type, run, program=program, description=description, arguments=arguments)

    def _load(self) -> ModuleType:
        return import_module(self.module)


_TABLE = (
    Command(
        "demo", "fungi.demos.vision", "First steps", "run the method on embedded pictures, from images to a kNN table"
    ),
    Command(
        "demo-text", "fungi.demos.text", "First steps", "run the method on texts that come with Python", "demo text"
    ),
    Command("demo-audio", "fungi.demos.audio", "First steps", "run the method on synthetic sounds", "demo audio"),
    Command(
        "demo-segmentation",
        "fungi.demos.segmentation",
        "First steps",
        "segment scenes composed of embedded digits",
        "demo segmentation",
    ),
    Command(
        "demo-udi",
        "fungi.demos.pretraining",
        "First steps",
        "pretrain a small network on generated textures and improve its features",
        "demo udi",
    ),
    Command(
        "similar", "fungi.similar.find_similar", "First steps", "show the most similar pictures of a folder to a query"
    ),
    Command("list", "fungi.cli.enumerate", "First steps", "list datasets, backbones, objectives and commands"),
    Command(
        "projection",
        "fungi.extraction.generate_projection_matrix",
        "Features",
        "write a random projection matrix",
        file="generate_projection_matrix.py",
        stage="projection",
    ),
    Command(
        "extract", "fungi.extraction.extract", "Features", "write embeddings", file="extract.py", stage="extraction"
    ),
    Command(
        "extract-gradients",
        "fungi.extraction.extract_gradients",
        "Features",
        "write projected gradients",
        file="extract_gradients.py",
        stage="extraction",
    ),
    Command(
        "merge",
        "fungi.extraction.merge",
        "Features",
        "assemble the blocks of all shards into feature files",
        stage="merge",
    ),
    Command(
        "import",
        "fungi.importing.import_features",
        "Features",
        "write features that another program computed as feature files",
    ),
    Command("clean", "fungi.extraction.clean", "Features", "remove files that killed processes left behind"),
    Command(
        "knn",
        "fungi.scoring.knn_concat",
        "Evaluation",
        "classify by nearest neighbours, for every combination of features",
        file="knn_concat.py",
        stage="evaluation",
    ),
    Command(
        "linear",
        "fungi.scoring.train_linear_concat_grads",
        "Evaluation",
        "classify by logistic regression, for nested combinations of features",
        file="train_linear_concat_grads.py",
        stage="evaluation",
    ),
    Command(
        "retrieval",
        "fungi.scoring.retrieval_eval",
        "Evaluation",
        "retrieve landmarks, for every combination of features",
        file="retrieval_eval.py",
        stage="evaluation",
        metrics=("map",),
    ),
    Command(
        "cluster",
        "fungi.scoring.cluster",
        "Evaluation",
        "cluster with k-means and match clusters to classes, for nested combinations of features",
        stage="evaluation",
    ),
    Command(
        "segment",
        "fungi.segmentation.segment",
        "Evaluation",
        "segment images by the nearest neighbours of their patches",
        stage="evaluation",
        metrics=SEGMENTATION_METRICS,
    ),
    Command(
        "in-context",
        "fungi.in_context.in_context",
        "Evaluation",
        "retrieve examples for a language model, ask it and score its answers",
        stage="evaluation",
    ),
    Command(
        "analyse",
        "fungi.scoring.analyse",
        "Evaluation",
        "compute the similarity of features and the accuracy by shots and by layer",
        stage="evaluation",
    ),
    Command(
        "ablate",
        "fungi.ablations.ablate",
        "Evaluation",
        "run one of the paper's ablations, from extraction to the table",
        stage="evaluation",
    ),
    Command(
        "reproduce", "fungi.reproduction.reproduce", "Paper and reports", "reproduce tables and figures of the paper"
    ),
    Command(
        "report",
        "fungi.report.write_report",
        "Paper and reports",
        "write tables and plots of results, with the published numbers",
        file="report.py",
        stage="report",
    ),
    Command(
        "explain",
        "fungi.explain.explain_result",
        "Paper and reports",
        "show the samples that one feature classifies correctly and another does not",
    ),
    Command("submit", "fungi.grid.submit", "Cluster", "submit the grid to SLURM"),
    Command("status", "fungi.grid.status", "Cluster", "show the progress of the grid"),
    Command("prefetch", "fungi.grid.prefetch", "Cluster", "download and verify weights and datasets of the grid"),
    Command(
        "run-elements", "fungi.grid.run_elements", "Cluster", "run a command for elements of the grid, in job files"
    ),
    Command(
        "pretrain",
        "fungi.pretraining.udi.pretrain",
        "Pretraining with UDI",
        "pretrain a vision transformer, from images to a checkpoint",
        "udi pretrain",
    ),
    Command(
        "evaluate-encoder",
        "fungi.pretraining.transfer.evaluate",
        "Pretraining with UDI",
        "evaluate class tokens and patches: kNN, linear probe, low-shot regression",
        "udi evaluate",
    ),
    Command(
        "fine-tune",
        "fungi.pretraining.transfer.fine_tune",
        "Pretraining with UDI",
        "fine-tune the network with a classifier",
        "udi fine-tune",
    ),
    Command(
        "detect",
        "fungi.pretraining.dense.detect",
        "Pretraining with UDI",
        "train and score Mask R-CNN on COCO",
        "udi detect",
    ),
    Command(
        "segment-fpn",
        "fungi.pretraining.dense.segment_fpn",
        "Pretraining with UDI",
        "train and score a semantic feature pyramid on ADE20K",
        "udi segment-fpn",
    ),
    Command(
        "propagate-labels",
        "fungi.pretraining.transfer.propagate_labels",
        "Pretraining with UDI",
        "propagate the masks of a video's first frame",
        "udi propagate-labels",
    ),
    Command(
        "attention-maps",
        "fungi.pretraining.transfer.write_attention",
        "Pretraining with UDI",
        "draw the attention of class tokens, one picture per head",
        "udi attention-maps",
    ),
    Command(
        "export-backbone",
        "fungi.pretraining.udi.export_backbone",
        "Pretraining with UDI",
        "write the backbone for timm, transformers and others",
        "udi export-backbone",
    ),
)
COMMANDS = {command.name: command for command in _TABLE}


def grid_command(name: str) -> Command:
    """Return a command that runs over the grid. Raises FungiError for other names."""
    if name not in COMMANDS or COMMANDS[name].stage is None:
        raise unknown_name("command of the grid", name, grid_commands())
    return COMMANDS[name]


def grid_commands() -> list[str]:
    """Return the names of the commands that run over the grid."""
    return [name for name, command in COMMANDS.items() if command.stage]
