"""A model's folder may bring Python code: it is never run, and nobody is asked whether it may be."""

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
    """A model of an unknown kind, with code of its own that leaves a trace, and a user who says yes to everything."""
    place = tmp_path / "model"
    place.mkdir()
    code = f"open({str(tmp_path / 'trace')!r}, 'w').close()\nclass Any: pass\n"
    (place / "evil.py").write_text(code)
    classes = {"AutoConfig": "evil.Any", "AutoModel": "evil.Any", "AutoTokenizer": ["evil.Any", "evil.Any"]}
    (place / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": classes}))
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": classes}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return place


def test_code_beside_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FungiError, match=r"could be read|can.t be read"):
        resolve_backbone(f"mine=hf:{folder}")
    with pytest.raises(FungiError, match="the tokenizer of"):
        hub_tokenizer("mine", str(folder)).get()
    assert not (tmp_path / "trace").exists()


def test_every_call_that_could_ask_says_no() -> None:
    """Whatever `transformers` chooses by the files that it finds could be code that comes with them."""
    calls = []
    for path in Path(fungi.__file__).parent.rglob("*.py"):
        if "from_pretrained" in (text := path.read_text()):
            calls += [ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    calls = [call for call in calls if re.match(r"Auto\w+\.from_pretrained\(", call)]
    assert len(calls) >= 4
    assert [call for call in calls if "trust_remote_code=False" not in call] == []
