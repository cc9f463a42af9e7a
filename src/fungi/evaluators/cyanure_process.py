"""Run cyanure in a separate process.

cyanure loads OpenBLAS. The LAPACK of OpenBLAS replaces routines that MKL, the library of torch, calls with several
threads. If both libraries are in one process, results of `torch.linalg` are wrong (docs/log.md). Therefore, this module
does not import torch, and the parent process never imports cyanure.

The parent process (`CyanureProcess`) passes features in shared memory, and uses the same child process for all fits.
The child process (`python -m fungi.evaluators.cyanure_process DESCRIPTOR`) returns coefficients, warnings and errors.
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
    """Request for a fit.

    rows, columns, offset: size and position (in bytes) of the float64 features in the shared memory.
    classes, threads: numbers of classes and of threads. regularization: lambda.
    The other fields are those of `LogisticOptions`.
    """

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
class CyanureSolution:
    """Coefficients of cyanure, `[r c]` (`[r 1]` or `[r]` for two classes), and the number of passes over the data."""

    coefficients: Float64[np.ndarray, "..."]
    epochs: int


class CyanureProcess:
    """Object of the parent process that controls the child process.

    The child process starts at the first fit. If it has ended, it is started again at the next fit. After a fork, the
    new process starts a child process of its own.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._owner_pid = 0

    def fit(self, request: CyanureFit, descriptor: int, codes: Int64[np.ndarray, " n"]) -> CyanureSolution:
        """Fit on features in shared memory. Raises FungiError if the fit fails.

        descriptor: file descriptor of the shared memory. codes: class of each row, from 0.
        """
        connection = self._running_connection(request.threads)
        try:
            connection.send((asdict(request), codes))
            send_handle(connection, descriptor, None)
            reply = connection.recv()
        except (EOFError, OSError):
            raise FungiError(self._message_of_ended_process(request)) from None
        except BaseException:  # after an interruption, the child would continue the fit for hours
            self.stop()
            raise
        for text in reply["warnings"]:
            warnings.warn(f"cyanure: {text}", RuntimeWarning, stacklevel=2)
        if "error" in reply:
            raise FungiError(f"--solver cyanure {reply['error']} Or use --solver lbfgs.")
        return CyanureSolution(reply["coefficients"], reply["epochs"])

    def stop(self) -> None:
        """Kill the child process, if this process started it."""
        if self._process is not None and self._owner_pid == os.getpid():
            assert self._connection is not None
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _running_connection(self, threads: int) -> Connection:
        """Return the connection to the child process. Start the process if it is not running."""
        is_running = self._process is not None and self._process.poll() is None and self._owner_pid == os.getpid()
        if not is_running:
            self.stop()
            self._start(threads)
        assert self._connection is not None
        return self._connection

    def _start(self, threads: int) -> None:
        """Start the child process and connect to it. The child prints to the standard error of the parent."""
        parent_socket, child_socket = socket.socketpair()
        variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        }
        with child_socket:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(child_socket.fileno())],
                pass_fds=[child_socket.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                env=os.environ | variables,
            )
        self._connection, self._owner_pid = Connection(parent_socket.detach()), os.getpid()

    def _message_of_ended_process(self, request: CyanureFit) -> str:
        """Return the error message for a child process that ended during a fit, with the cause if it is known."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # the process has closed the connection, but it is still running
            status = -signal.SIGKILL
        self.stop()
        ending = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        cause = ", most likely because memory ran out" if status == -signal.SIGKILL else ""
        return (
            f"the process of --solver cyanure {ending}{cause}, while it fitted {request.rows} rows x {request.classes}"
            " classes. Use --solver lbfgs, which needs far less memory."
        )


PROCESS = CyanureProcess()
"""The cyanure process of all fits. Fits run one after the other, each with all threads."""
atexit.register(PROCESS.stop)


def _has_descriptor(stream: Any) -> bool:
    """Return whether a stream is an open file of the system."""
    try:
        return stream.fileno() >= 0
    except (AttributeError, OSError, ValueError):
        return False


def serve(connection: Connection) -> None:
    """Compute requested fits in the child process until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption also reaches the parent, which ends this process
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    while True:
        try:
            request, codes = connection.recv()
            descriptor = recv_handle(connection)
        except (EOFError, OSError):
            return
        try:
            reply = _fit(CyanureFit(**request), descriptor, codes)
        except ImportError as error:
            reply = {"error": f"can't be used ({error}). pip install cyanure.", "warnings": []}
        except Exception as error:  # the parent reports all exceptions of cyanure
            text = " ".join(f"{type(error).__name__}: {error}".split())
            reply = {"error": f"failed ({text}).", "warnings": []}
        finally:
            os.close(descriptor)
        connection.send(reply)


def _fit(request: CyanureFit, descriptor: int, codes: Int64[np.ndarray, " n"]) -> dict[str, Any]:
    """Return `coefficients`, `epochs` and `warnings` of a fit."""
    from cyanure.estimators import Classifier
    from sklearn.exceptions import ConvergenceWarning

    memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    flat = np.frombuffer(memory, dtype=np.float64, offset=request.offset, count=request.rows * request.columns)
    # For two classes, cyanure has only the binary loss. With the multinomial loss, it uses the squared loss without a
    # warning. The binary weights w correspond to W = [-w/2, w/2], and the penalty of W is half the penalty of w.
    is_binary = request.classes == 2
    classifier = Classifier(
        loss="logistic" if is_binary else "multiclass-logistic",
        penalty="l2",
        fit_intercept=False,
        lambda_1=request.regularization / 2 if is_binary else request.regularization,
        n_threads=request.threads,
        tol=request.tolerance,
        solver="auto",
        random_state=request.seed,
        max_iter=request.max_epochs,
        verbose=False,
    )
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)  # the parent reports the duality gap
        classifier.fit(flat.reshape(request.rows, request.columns), codes)
    return {
        "coefficients": np.asarray(classifier.coef_, dtype=np.float64),
        "epochs": int(np.max(classifier.n_iter_)),
        "warnings": list(dict.fromkeys(str(warning.message) for warning in recorded)),
    }


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
