"""Run cyanure in a separate process.

cyanure loads OpenBLAS. Its LAPACK replaces routines that torch's MKL calls with several threads. With both in one
process, results of `torch.linalg` are wrong (docs/log.md). Therefore this module does not import torch, and the parent
process never imports cyanure.

The parent (`CyanureProcess`) passes features in shared memory and keeps the process for the next fit. The child
(`python -m fungi.evaluators.cyanure_process DESCRIPTOR`) sends back coefficients, warnings and errors.
"""

import atexit
import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from fungi.errors import FungiError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>


@dataclass(frozen=True, kw_only=True)
class CyanureFit:
    """One fit. rows, columns, offset: the float64 features in the shared memory; threads: number of threads."""

    rows: int
    columns: int
    offset: int
    classes: int
    regularization: float
    tolerance: float
    max_epochs: int
    seed: int
    threads: int


@dataclass(frozen=True)
class CyanureAnswer:
    """Coefficients of cyanure, `[r c]` (`[r 1]` or `[r]` for two classes), and the number of passes over the data."""

    coefficients: Float64[np.ndarray, "..."]
    epochs: int


class CyanureProcess:
    """The child process, as the parent sees it. It starts at the first fit, and again if it has ended since."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._owner = 0

    def fit(self, request: CyanureFit, descriptor: int, codes: Int64[np.ndarray, " n"]) -> CyanureAnswer:
        """Fit on features in shared memory. descriptor: its file descriptor. Raises FungiError if the fit fails."""
        connection = self._connected(request.threads)
        try:
            connection.send((asdict(request), codes))
            send_handle(connection, descriptor, None)
            answer = connection.recv()
        except (EOFError, OSError):
            raise FungiError(self._reason_of_death(request)) from None
        except BaseException:  # interrupted: the fit would go on for hours
            self.stop()
            raise
        for text in answer["warnings"]:
            warnings.warn(f"cyanure: {text}", RuntimeWarning, stacklevel=2)
        if "error" in answer:
            raise FungiError(f"--solver cyanure {answer['error']} Or use --solver lbfgs.")
        return CyanureAnswer(answer["coefficients"], answer["epochs"])

    def stop(self) -> None:
        """Kill the process."""
        if self._process is not None and self._owner == os.getpid():
            assert self._connection is not None
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _connected(self, threads: int) -> Connection:
        alive = self._process is not None and self._process.poll() is None and self._owner == os.getpid()
        if not alive:
            self.stop()
            self._start(threads)
        assert self._connection is not None
        return self._connection

    def _start(self, threads: int) -> None:
        ours, theirs = socket.socketpair()
        variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                env=os.environ | variables,
            )
        self._connection, self._owner = Connection(ours.detach()), os.getpid()

    def _reason_of_death(self, request: CyanureFit) -> str:
        """Return the message about a process that ended by itself, with the cause as far as it is known."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # it closed the connection but still runs
            status = -signal.SIGKILL
        self.stop()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        likely = ", most likely for want of memory" if status == -signal.SIGKILL else ""
        return (
            f"the process of --solver cyanure {how}{likely}, while it fitted {request.rows} rows x {request.classes}"
            " classes. Use --solver lbfgs, which needs far less memory."
        )


PROCESS = CyanureProcess()
"""The cyanure process shared by all fits, which run one after the other with all threads."""
atexit.register(PROCESS.stop)


def _has_descriptor(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False


def serve(connection: Connection) -> None:
    """Answer requests in the child process until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    while True:
        try:
            request, codes = connection.recv()
            descriptor = recv_handle(connection)
        except (EOFError, OSError):
            return
        try:
            answer = _answer(CyanureFit(**request), descriptor, codes)
        except ImportError as error:
            answer = {"error": f"can't be used ({error}). pip install cyanure.", "warnings": []}
        except Exception as error:  # the parent reports every exception of cyanure
            text = " ".join(f"{type(error).__name__}: {error}".split())
            answer = {"error": f"failed ({text}).", "warnings": []}
        finally:
            os.close(descriptor)
        connection.send(answer)


def _answer(request: CyanureFit, descriptor: int, codes: Int64[np.ndarray, " n"]) -> dict[str, Any]:
    from cyanure.estimators import Classifier
    from sklearn.exceptions import ConvergenceWarning

    memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    flat = np.frombuffer(memory, dtype=np.float64, offset=request.offset, count=request.rows * request.columns)
    # For two classes, cyanure has only the binary loss: asked for the multinomial loss, it silently uses the squared
    # loss. Its w corresponds to W = [-w/2, w/2], and the penalty of W is half that of w.
    binary = request.classes == 2
    classifier = Classifier(
        loss="logistic" if binary else "multiclass-logistic",
        penalty="l2",
        fit_intercept=False,
        lambda_1=request.regularization / 2 if binary else request.regularization,
        n_threads=request.threads,
        tol=request.tolerance,
        solver="auto",
        random_state=request.seed,
        max_iter=request.max_epochs,
        verbose=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)  # the parent reports the duality gap
        classifier.fit(flat.reshape(request.rows, request.columns), codes)
    return {
        "coefficients": np.asarray(classifier.coef_, dtype=np.float64),
        "epochs": int(np.max(classifier.n_iter_)),
        "warnings": list(dict.fromkeys(str(entry.message) for entry in caught)),
    }


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
