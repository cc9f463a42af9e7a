"""Every command, once: help, `fungi list`, the stages of the grid and the flags of its jobs derive from this table.

A row names a module, which is imported when the command is called, and declares

    DESCRIPTION      the text of its --help
    run(settings)    does the work; the class that its parameter is annotated with is the home of the flags
    show(settings, made)   optional: prints what `run` gave, which demos and other callers take as it is

or, where it does not take flags of its own, `main(arguments) -> exit status`. Modules import what is slow to import
inside their functions, so that help is instant.

A command with a `stage` runs over the grid. Flags for the axes of the grid (--root, --dataset, --backbone, --split,
--shard, --data-dir) are passed on where its settings have them; `outputs()` of the settings names the files that show
it to be done.
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
"""When a command runs over the grid, in this order."""
CLASSIFICATION = ("accuracy", "mean-per-class-accuracy")
SEGMENTATION = ("mIoU",)


@dataclass(frozen=True)
class Command:
    """A row of the table.

    help: one line. file: the top-level file that is the same command; messages name it.
    stage: when it runs over the grid; None if it does not. metrics: those of the datasets that an evaluation runs over.
    """

    name: str
    module: str
    help: str
    file: str = ""
    stage: Stage | None = None
    metrics: tuple[str, ...] = CLASSIFICATION

    @property
    def program(self) -> str:
        """What messages call it."""
        return self.file or f"fungi {self.name}"

    @property
    def settings_type(self) -> type[Any]:
        """The home of its flags: what the parameter of its `run` is annotated with."""
        (parameter,) = signature(self._load().run).parameters.values()
        assert isinstance(parameter.annotation, type), f"{self.module}.run has to say what its settings are"
        return parameter.annotation

    def parse(self, flags: Sequence[str]) -> Any:
        """Its settings from a command line; FungiError for what is wrong with it."""
        return parse(self.settings_type, flags, program=self.program, description=self._load().DESCRIPTION)

    def main(self, arguments: Sequence[str] | None = None, *, program: str | None = None) -> int:
        """Run it with `arguments` (the process's own by default); the exit status. program: what messages call it."""
        given = list(sys.argv[1:] if arguments is None else arguments)
        module = self._load()
        if hasattr(module, "main"):
            return int(module.main(given))
        show = getattr(module, "show", None)
        work = (lambda settings: show(settings, module.run(settings))) if show else module.run
        called = program or self.program
        description = module.DESCRIPTION.replace(f"python {self.file}", called) if self.file else module.DESCRIPTION
        return run_command(self.settings_type, work, program=called, description=description, arguments=given)

    def _load(self) -> ModuleType:
        return import_module(self.module)


_TABLE = (
    Command("demo", "fungi.demos.vision", "the main job on embedded data, from images to the kNN table"),
    Command("demo-text", "fungi.demos.text", "the same for texts that come with Python"),
    Command("demo-audio", "fungi.demos.audio", "the same for synthetic sounds"),
    Command("demo-segmentation", "fungi.demos.segmentation", "segmentation of scenes composed of embedded data"),
    Command(
        "demo-udi", "fungi.demos.pretraining", "pretrain on generated textures, and what gradients add to the result"
    ),
    Command("list", "fungi.cli.enumerate", "the names of datasets, backbones, objectives, commands"),
    Command("similar", "fungi.similar.find_similar", "what is most like a picture in a folder, as a page"),
    Command(
        "projection",
        "fungi.extraction.generate_projection_matrix",
        "write a random projection matrix",
        "generate_projection_matrix.py",
        "projection",
    ),
    Command("extract", "fungi.extraction.extract", "write embeddings", "extract.py", "extraction"),
    Command(
        "extract-gradients",
        "fungi.extraction.extract_gradients",
        "write projected gradients",
        "extract_gradients.py",
        "extraction",
    ),
    Command("merge", "fungi.extraction.merge", "assemble the blocks of all shards into feature files", stage="merge"),
    Command("clean", "fungi.extraction.clean", "remove what killed processes left and is nobody's"),
    Command("knn", "fungi.scoring.knn_concat", "kNN over every combination of features", "knn_concat.py", "evaluation"),
    Command(
        "linear",
        "fungi.scoring.train_linear_concat_grads",
        "logistic regression over nested combinations of features",
        "train_linear_concat_grads.py",
        "evaluation",
    ),
    Command(
        "retrieval",
        "fungi.scoring.retrieval_eval",
        "landmark retrieval over every combination of features",
        "retrieval_eval.py",
        "evaluation",
        metrics=("map",),
    ),
    Command(
        "cluster",
        "fungi.scoring.cluster",
        "k-means with Hungarian matching over nested combinations of features",
        stage="evaluation",
    ),
    Command(
        "segment",
        "fungi.segmentation.segment",
        "segment images by their patches' neighbours, without training",
        stage="evaluation",
        metrics=SEGMENTATION,
    ),
    Command(
        "pretrain", "fungi.pretraining.pretrain", "UDI: pretrain a vision transformer, from images to a checkpoint"
    ),
    Command(
        "evaluate-encoder",
        "fungi.pretraining.evaluate",
        "weighted kNN, linear probe and low-shot regression of class tokens and patches",
    ),
    Command(
        "fine-tune", "fungi.pretraining.fine_tune", "train a classifier on a pretrained vision transformer, as a whole"
    ),
    Command(
        "propagate-labels", "fungi.pretraining.propagate_labels", "objects of a video's first frame through the others"
    ),
    Command(
        "export-backbone",
        "fungi.pretraining.export_backbone",
        "a pretrained backbone for timm, transformers and others",
    ),
    Command("attention-maps", "fungi.pretraining.write_attention", "what class tokens look at, one picture per head"),
    Command(
        "analyse", "fungi.scoring.analyse", "similarity of features, accuracy by shots and by layer", stage="evaluation"
    ),
    Command(
        "in-context",
        "fungi.in_context.in_context",
        "retrieve examples for a language model, ask it, score its answers",
        stage="evaluation",
    ),
    Command("ablate", "fungi.ablations.ablate", "the paper's ablations: extraction, kNN and table", stage="evaluation"),
    Command("reproduce", "fungi.reproduction.reproduce", "tables and figures of the paper, by name"),
    Command(
        "report",
        "fungi.report.write_report",
        "tables and plots from result files, beside the published numbers",
        "report.py",
        "report",
    ),
    Command("submit", "fungi.grid.submit", "submit the grid to SLURM"),
    Command("status", "fungi.grid.status", "how far the grid is, and what to submit again"),
    Command("prefetch", "fungi.grid.prefetch", "fetch and verify weights and datasets of the grid, for offline nodes"),
    Command(
        "run-elements", "fungi.grid.run_elements", "what job scripts call: a command for this task's part of the grid"
    ),
)
COMMANDS = {command.name: command for command in _TABLE}


def grid_command(name: str) -> Command:
    """A command that runs over the grid; FungiError for any other name."""
    if name not in COMMANDS or COMMANDS[name].stage is None:
        raise unknown_name("command of the grid", name, grid_commands())
    return COMMANDS[name]


def grid_commands() -> list[str]:
    """Names of the commands that run over the grid."""
    return [name for name, command in COMMANDS.items() if command.stage]
