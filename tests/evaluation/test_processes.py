"""Libraries do not disturb each other: cyanure has its own process, and eigenvectors are checked."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Connection

import numpy as np
import pytest
import torch

from fungi.combine.eigen import checked_eigh, checked_share
from fungi.commands import COMMANDS
from fungi.errors import FungiError
from fungi.evaluators.cyanure_process import CyanureProcess
from fungi.evaluators.linear import fit_classifier
from fungi.evaluators.logistic import LogisticOptions
from fungi.runtime.shared_rows import shared_memory_handle, shared_rows
from fungi.scoring import train_linear_concat_grads
from tests.evaluation.feature_folder import make_folder
from tests.evaluation.test_linear import labelled

# Options of a fit that would take much longer than a test.
ENDLESS = LogisticOptions(tolerance=1e-14, max_epochs=10_000)

# A program for a separate process. It uses each library, and checks after each whether the LAPACK of torch is still
# correct with two threads. The matrix is so large that LAPACK uses its routines for several threads.
PROBE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
torch.set_num_threads(2)
x = torch.randn(1200, 960, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
gram = x.T @ x
y = (np.arange(1200) % 5).astype(np.int64)

def probe(name):
    spectrum, vectors = torch.linalg.eigh(gram)
    residual = float((gram @ vectors - vectors * spectrum).norm() / gram.norm())
    error = float((torch.linalg.solve(gram, gram) - torch.eye(960, dtype=gram.dtype)).norm())
    print(name, residual < 1e-12 and error < 1e-6, flush=True)

probe("nothing")
from fungi.evaluators.knn import knn_predictions
from fungi.search.neighbours import in_memory
for backend in ("faiss", "scann", "sklearn"):
    knn_predictions(in_memory(x[:, :32].float()), y, x[:50, :32].float(), 5, backend)
    probe(backend)
from fungi.evaluators.clustering import cluster
cluster(x[:, :8].numpy(), y, restarts=1)
probe("k-means")
from fungi.evaluators.linear import LabelledRows, fit_classifier
from fungi.evaluators.logistic import LogisticOptions
fit_classifier(LabelledRows(x[:, :64], y), 1e-3, LogisticOptions(max_epochs=20))
probe("cyanure")
print("loaded", "cyanure_lib" in sys.modules)
"""


@pytest.mark.slow
def test_the_linear_algebra_of_torch_is_correct_after_every_library():
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=300)
    assert probe.stdout.splitlines() == [
        *(f"{name} True" for name in ("nothing", "faiss", "scann", "sklearn", "k-means", "cyanure")),
        "loaded False",
    ], probe.stderr


@pytest.fixture
def process(monkeypatch):
    """Return a new cyanure process, which is stopped after the test."""
    from fungi.evaluators import logistic

    new_process = CyanureProcess()
    monkeypatch.setattr(logistic, "PROCESS", new_process)
    yield new_process
    new_process.stop()


@pytest.mark.slow
def test_one_process_computes_all_fits_and_is_restarted_if_killed(process):
    rows, options = labelled(), LogisticOptions(tolerance=1e-8)
    weights = fit_classifier(rows, 1e-2, options).logistic.weights
    pid = process._process.pid
    assert torch.equal(fit_classifier(rows, 1e-2, options).logistic.weights, weights)
    assert process._process.pid == pid
    os.kill(pid, signal.SIGKILL)
    process._process.wait()
    assert torch.equal(fit_classifier(rows, 1e-2, options).logistic.weights, weights)
    assert process._process.pid != pid


@pytest.mark.slow
def test_a_killed_fit_gives_an_error_of_one_line_with_a_solution(process, monkeypatch):
    fit_classifier(labelled(), 1e-2, LogisticOptions())
    receive = Connection.recv

    def kill_and_receive(connection):
        os.kill(process._process.pid, signal.SIGKILL)
        return receive(connection)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "recv", kill_and_receive)
        with pytest.raises(FungiError, match=r"was killed by SIGKILL, most likely because memory ran out") as error:
            fit_classifier(labelled(rows=60_000, dim=64, classes=40), 1e-9, ENDLESS)
    assert "60000 rows x 40 classes. Use --solver lbfgs" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(fit_classifier(labelled(), 1e-2, LogisticOptions()).classes) == 3  # the next fit has a new process


@pytest.mark.slow
def test_an_interrupt_also_stops_the_process_of_the_fit(process, monkeypatch):
    fit_classifier(labelled(), 1e-2, LogisticOptions())
    child = process._process

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, "recv", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_classifier(labelled(rows=60_000, dim=64, classes=40), 1e-9, ENDLESS)
    assert child.wait(timeout=10) == -signal.SIGKILL


FAKE_CYANURE = """
import warnings
import numpy as np
class Classifier:
    def __init__(self, **options):
        self.threads = options["n_threads"]
    def fit(self, features, codes):
        {body}
        self.coef_, self.n_iter_ = np.full((features.shape[1], 3), float(self.threads)), np.array([[7]])
"""


@pytest.fixture
def fake_cyanure(process, tmp_path, monkeypatch):
    """Return a function that replaces cyanure with a fake. `body` is the first code that its fits run."""

    def write(body: str) -> None:
        (tmp_path / "cyanure").mkdir()
        (tmp_path / "cyanure" / "__init__.py").touch()
        (tmp_path / "cyanure" / "estimators.py").write_text(FAKE_CYANURE.format(body=body))
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


@pytest.mark.slow
def test_errors_of_cyanure_are_reported_in_one_line(process):
    rows = labelled(rows=40, dim=3)
    with pytest.raises(FungiError, match=r"--solver cyanure failed \(ValueError: .*NaN.*--solver lbfgs") as error:
        fit_classifier(replace(rows, features=rows.features * float("nan")), 1e-2, LogisticOptions())
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise MemoryError('no room\\nfor it')", r"failed \(MemoryError: no room for it\)\. Or use --solver lbfgs"),
        (
            "import nowhere",
            r"can't be used \(No module named 'nowhere'\)\. pip install cyanure\. Or use --solver",
        ),
        ("import os; os._exit(3)", r"ended with status 3, while it fitted 240 rows x 3 classes"),
    ],
    ids=["error", "missing", "end"],
)
def test_every_failed_fit_reports_its_cause(body, message, fake_cyanure):
    fake_cyanure(body)
    with pytest.raises(FungiError, match=message) as error:
        fit_classifier(labelled(), 1e-2, LogisticOptions())
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_the_process_of_cyanure_reports_warnings_and_uses_the_threads_of_the_parent(threads, fake_cyanure, two_threads):
    fake_cyanure("warnings.warn('be careful')")
    torch.set_num_threads(threads)  # the fixture `two_threads` restores the earlier number after the test
    with pytest.warns(RuntimeWarning, match="cyanure: be careful"):
        fitted = fit_classifier(labelled(), 1e-2, LogisticOptions()).logistic
    assert (fitted.weights == threads).all()  # the fake returns the number of threads as weights
    assert fitted.epochs == 7


def test_only_rows_outside_shared_memory_are_copied():
    rows = shared_rows(10, 4)
    rows.copy_(torch.arange(40.0).reshape(10, 4))
    with shared_memory_handle(rows[3:]) as handle_of_part, shared_memory_handle(rows) as handle:
        assert handle_of_part.descriptor == handle.descriptor
        assert (handle_of_part.offset, handle_of_part.shape) == (3 * 4 * 8, (7, 4))  # 3 rows of 4 numbers of 8 bytes
    for tensor in (torch.ones(5, 2, dtype=torch.float64), rows[:, :2]):
        with shared_memory_handle(tensor) as handle_of_copy:
            assert handle_of_copy.descriptor != handle.descriptor
            content = np.frombuffer(os.pread(handle_of_copy.descriptor, tensor.nbytes, handle_of_copy.offset))
            np.testing.assert_array_equal(content.reshape(-1, 2), tensor.numpy())


def test_shared_memory_is_freed_with_its_last_tensor():
    rows = shared_rows(1000, 10)
    with shared_memory_handle(rows) as handle:
        descriptor = handle.descriptor
    part = rows[5:]
    del rows
    assert os.fstat(descriptor).st_size == 1000 * 10 * 8
    del part
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_all_fits_of_a_combination_read_the_same_rows_in_shared_memory(tmp_path, monkeypatch):
    """Otherwise, each fit would copy the features for the process of cyanure, into another region of shared memory."""
    make_folder(tmp_path)
    from fungi.runtime import shared_rows as module

    sizes = []
    create_region = module._Region.of_size

    def create_and_record(size):
        sizes.append(size)
        return create_region(size)

    monkeypatch.setattr(module._Region, "of_size", create_and_record)
    settings = train_linear_concat_grads.LinearSettings(root=(tmp_path,), features=("embeddings", "kl"), pca_dim=6)
    train_linear_concat_grads.run(settings)
    assert len(sizes) == 2  # one region per combination, for its six fits: five for validation, and the final fit


def test_wrong_eigenvectors_are_refused_in_one_line_and_leave_no_result(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path)
    eigh = torch.linalg.eigh
    wrong_functions = {
        "vectors in reversed order": lambda m: (eigh(m)[0], eigh(m)[1].flip(1)),
        "values too large": lambda m: (eigh(m)[0] * 1.001, eigh(m)[1]),
        "not a number": lambda m: (eigh(m)[0] * float("nan"), eigh(m)[1]),
        "not orthonormal": lambda m: (eigh(m)[0] / 4, eigh(m)[1] * 2),
    }
    for name, wrong_eigh in wrong_functions.items():
        monkeypatch.setattr(torch.linalg, "eigh", wrong_eigh)
        assert COMMANDS["knn"].main(["--root", str(tmp_path), "--pca-dim", "6"]) == 2, name
        error = capsys.readouterr().err
        assert re.search(r"knn_concat.py: the eigenvectors of a \d+ x \d+ matrix for PCA are wrong \(relative", error)
        assert "OMP_NUM_THREADS=1" in error
    assert not list(tmp_path.rglob("results/**/*.json"))


def test_a_share_of_variance_outside_zero_and_one_is_refused():
    ones = torch.ones(4, dtype=torch.float64)
    assert checked_share(ones[:1], ones) == 0.25
    assert checked_share(ones * (1 + 1e-12), ones) == pytest.approx(1)  # rounding
    for wrong in (ones * 2, -ones, ones * float("inf")):
        with pytest.raises(FungiError, match=r"of the variance, which is impossible: the linear algebra library"):
            checked_share(wrong, ones)


@pytest.mark.parametrize("size", [1, 2, 50, 300])
def test_correct_eigenvectors_of_any_scale_and_rank_pass(size):
    rows = torch.randn(max(1, size // 2), size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for scale in (1e-200, 1e-20, 1.0, 1e20, 0.0):
        gram = scale * (rows.T @ rows)
        spectrum, vectors = checked_eigh(gram)
        torch.testing.assert_close(vectors * spectrum @ vectors.T, gram, rtol=1e-9, atol=1e-12 * scale * size)
