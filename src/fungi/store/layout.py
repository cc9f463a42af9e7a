"""Where every file lives below the root folder. A path is written once, here (DESIGN of the files: README)."""

from dataclasses import dataclass
from pathlib import Path

from fungi.objectives import EMBEDDINGS as EMBEDDINGS


@dataclass(frozen=True)
class Layout:
    """Paths below one root.

    <root>/embeddings/<dataset>/<backbone>/<split>.h5
    <root>/gradients/<dataset>/<backbone>/<objective>-<split>.h5
    <root>/projections/<name>.pth
    <root>/support/<dataset>/<backbone>/<objective>-<key>.safetensors   (negatives, prototypes)
    <root>/banks/<dataset>/<backbone>/<feature>-<key>/                  (patches for segmentation)
    <root>/blocks/...                                                   (work in progress, removed when assembled)
    <root>/results/<task>/<dataset>/<backbone>.json
    """

    root: Path

    def embeddings(self, dataset: str, backbone: str, split: str) -> Path:
        """Embeddings of a split."""
        return self.root.joinpath("embeddings", dataset, backbone, f"{split}.h5")

    def gradients(self, dataset: str, backbone: str, objective: str, split: str) -> Path:
        """Projected gradients of one objective for a split, one array per layer."""
        return self.root.joinpath("gradients", dataset, backbone, f"{objective}-{split}.h5")

    def features(self, feature: str, dataset: str, backbone: str, split: str) -> Path:
        """Return the file of a feature by its name: `embeddings`, or an objective."""
        if feature == EMBEDDINGS:
            return self.embeddings(dataset, backbone, split)
        return self.gradients(dataset, backbone, feature, split)

    def objectives(self, dataset: str, backbone: str, split: str) -> list[str]:
        """Objectives whose gradients of a split are there, in this layout or in the original harness's."""
        ending = f"-{split}.h5"
        folders = (self.root / "gradients" / dataset / backbone, self._original(dataset, backbone))
        files = [path for folder in folders for path in sorted(folder.glob(f"*{ending}"))]
        return list(dict.fromkeys(path.name.removesuffix(ending) for path in files))

    def _original(self, dataset: str, backbone: str) -> Path:
        """Return where the original harness has its gradients: it knows no level `gradients`."""
        return self.root / dataset / backbone

    def existing(self, feature: str, dataset: str, backbone: str, split: str) -> Path:
        """Return the file of a feature for reading: ours, or the original harness's where that alone is there."""
        ours = self.features(feature, dataset, backbone, split)
        theirs = self._original(dataset, backbone) / ours.name
        return theirs if feature != EMBEDDINGS and theirs.is_file() and not ours.exists() else ours

    def projection(self, name: str) -> Path:
        """Return a projection matrix made by default (none was given)."""
        return self.root / "projections" / f"{name}.pth"

    def support(self, dataset: str, backbone: str, objective: str, key: str) -> Path:
        """Supporting data of an objective: negatives, prototypes."""
        return self.root.joinpath("support", dataset, backbone, f"{objective}-{key}.safetensors")

    def blocks(self, feature_file: Path, key: str) -> Path:
        """Folder of the blocks of one feature file, for one way of making it."""
        return self.root.joinpath("blocks", feature_file.relative_to(self.root).with_suffix(""), key)

    def written_folders(self, dataset: str = "", backbone: str = "") -> list[Path]:
        """Return the folders of blocks and feature files, of one dataset and backbone where they are named."""
        below = Path(dataset, backbone) if dataset else Path()
        return [
            self.root / kind / below for kind in ("blocks/embeddings", "blocks/gradients", "embeddings", "gradients")
        ]

    def bank(self, dataset: str, backbone: str, name: str) -> Path:
        """Folder of a bank of patches, for one way of making it."""
        return self.root / "banks" / dataset / backbone / name

    def results(self, task: str, dataset: str, backbone: str) -> Path:
        """Return the result file of an evaluation: task is `knn`, `knn-5shot`, `linear`, `retrieval`, ..."""
        return self.root.joinpath("results", task, dataset, f"{backbone}.json")
