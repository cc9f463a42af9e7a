"""Paths of all files below the root folder. Only this module builds such paths (docs/files.md describes the files)."""

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
    <root>/compiled/<GPU>/                                              (cache of compiled code, may be removed)
    <root>/results/<task>/<dataset>/<backbone>.json
    """

    root: Path

    def embeddings(self, dataset: str, backbone: str, split: str) -> Path:
        """Return the file of the embeddings of a split."""
        return self.root.joinpath("embeddings", dataset, backbone, f"{split}.h5")

    def gradients(self, dataset: str, backbone: str, objective: str, split: str) -> Path:
        """Return the file of the projected gradients of an objective for a split. It has one array per layer."""
        return self.root.joinpath("gradients", dataset, backbone, f"{objective}-{split}.h5")

    def features(self, feature: str, dataset: str, backbone: str, split: str) -> Path:
        """Return the file of a feature by its name: `embeddings`, or an objective."""
        if feature == EMBEDDINGS:
            return self.embeddings(dataset, backbone, split)
        return self.gradients(dataset, backbone, feature, split)

    def objectives(self, dataset: str, backbone: str, split: str) -> list[str]:
        """Return the objectives with gradients of a split, in this layout or in the layout of the published code."""
        ending = f"-{split}.h5"
        folders = (self.root / "gradients" / dataset / backbone, self._published_folder(dataset, backbone))
        files = [path for folder in folders for path in sorted(folder.glob(f"*{ending}"))]
        return list(dict.fromkeys(path.name.removesuffix(ending) for path in files))

    def _published_folder(self, dataset: str, backbone: str) -> Path:
        """Return the folder of the gradients of the published code. Its paths have no level `gradients`."""
        return self.root / dataset / backbone

    def existing(self, feature: str, dataset: str, backbone: str, split: str) -> Path:
        """Return the file of a feature: our file, or the file of the published code if only that file exists."""
        path = self.features(feature, dataset, backbone, split)
        published_path = self._published_folder(dataset, backbone) / path.name
        if feature != EMBEDDINGS and published_path.is_file() and not path.exists():
            return published_path
        return path

    def projection(self, name: str) -> Path:
        """Return the file of a default projection matrix."""
        return self.root / "projections" / f"{name}.pth"

    def support(self, dataset: str, backbone: str, objective: str, key: str) -> Path:
        """Return the file of the supporting data of an objective: negatives, prototypes."""
        return self.root.joinpath("support", dataset, backbone, f"{objective}-{key}.safetensors")

    def blocks(self, feature_file: Path, key: str) -> Path:
        """Return the folder of the blocks of a feature file. key: `Manifest.key`."""
        return self.root.joinpath("blocks", feature_file.relative_to(self.root).with_suffix(""), key)

    def written_folders(self, dataset: str = "", backbone: str = "") -> list[Path]:
        """Return the folders of blocks and feature files: all, or only those of a dataset and a backbone."""
        subfolder = Path(dataset, backbone) if dataset else Path()
        kinds = ("blocks/embeddings", "blocks/gradients", "embeddings", "gradients")
        return [self.root / kind / subfolder for kind in kinds]

    def bank(self, dataset: str, backbone: str, name: str) -> Path:
        """Return the folder of a bank of patches. name: feature and key of the bank (`BankManifest.key`)."""
        return self.root / "banks" / dataset / backbone / name

    @property
    def compiled(self) -> Path:
        """Folder of compiled code. It has a subfolder for each GPU model."""
        return self.root / "compiled"

    def results(self, task: str, dataset: str, backbone: str) -> Path:
        """Return the result file of an evaluation. task: `knn`, `knn-5shot`, `linear`, `retrieval`, ..."""
        return self.root.joinpath("results", task, dataset, f"{backbone}.json")
