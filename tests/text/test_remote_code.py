"""Python code in the folder of a model never runs, and the program never asks whether it may run."""

import ast
import json
import re
from pathlib import Path

import pytest

import fungi
from fungi.backbones.base import resolve_backbone
from fungi.errors import FungiError
from fungi.views.tokenizers import hub_tokenizer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a model with its own code, which would write the file `trace`.

    A user who is asked a question would answer yes.
    """
    folder = tmp_path / "model"
    folder.mkdir()
    code = f"open({str(tmp_path / 'trace')!r}, 'w').close()\nclass Any: pass\n"
    (folder / "evil.py").write_text(code)
    classes = {"AutoConfig": "evil.Any", "AutoModel": "evil.Any", "AutoTokenizer": ["evil.Any", "evil.Any"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": classes}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": classes}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return folder


def test_code_in_the_folder_of_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FungiError, match=r"could be read|can.t be read"):
        resolve_backbone(f"mine=hf:{folder}")
    with pytest.raises(FungiError, match="the tokenizer of"):
        hub_tokenizer("mine", str(folder)).get()
    assert not (tmp_path / "trace").exists()


def test_every_call_that_could_run_remote_code_forbids_remote_code() -> None:
    """The `Auto` classes of `transformers` select the code from the files of the model, which may contain code."""
    calls = []
    for path in Path(fungi.__file__).parent.rglob("*.py"):
        if "from_pretrained" in (text := path.read_text()):
            calls += [ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if re.match(r"Auto\w+\.from_pretrained\(", call)]
    assert len(calls) >= 4
    assert [call for call in calls if "trust_remote_code=False" not in call] == []
