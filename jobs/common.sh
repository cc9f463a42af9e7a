# Functions and variables of all job files, which read this file with `.`. Plain sh.
#
#   over_grid COMMAND FLAGS...        run a command for this array task's element of the grid
#   over_landmarks COMMAND FLAGS...   the same, but only for the retrieval datasets of the grid
#   without_grid COMMAND FLAGS...     run a command with only its own flags
#   in_project SCRIPT FLAGS...        run a script of the project
#   per_process COMMAND FLAGS...      run a command in every task of the job, with the variables that torchrun sets
#
# From the environment, all optional:
#   FUNGI_GRID or FUNGI_BACKBONES, FUNGI_DATASETS, FUNGI_SPLITS, FUNGI_SHARDS, FUNGI_ROOT, FUNGI_DATA_DIR, FUNGI_GPU,
#   FUNGI_FLAGS_<COMMAND>    the grid (docs/cluster.md)
#   FUNGI_PROJECT            folder of the code; by default the folder from which the job was submitted
#   FUNGI_PYTHON             interpreter; by default the interpreter of .venv in the project, otherwise python3
#   FUNGI_MAX_RESTARTS       largest number of times that a job that runs out of time is queued again (20 by default)

FUNGI_PROJECT=${FUNGI_PROJECT:-${SLURM_SUBMIT_DIR:-$PWD}}
if [ -z "${FUNGI_PYTHON:-}" ]; then
  FUNGI_PYTHON=$FUNGI_PROJECT/.venv/bin/python
  [ -x "$FUNGI_PYTHON" ] || FUNGI_PYTHON=python3
fi
export PYTHONPATH="$FUNGI_PROJECT/src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1

# Compute nodes often have no network: `fungi prefetch` downloads weights and datasets beforehand.
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" HF_DATASETS_OFFLINE="${HF_DATASETS_OFFLINE:-1}"
export TRANSFORMERS_OFFLINE="${TRANSFORMERS_OFFLINE:-1}"
# Feature files are written under a temporary name and renamed when they are complete, so they need no locks. Many
# shared file systems do not support locks.
export HDF5_USE_FILE_LOCKING="${HDF5_USE_FILE_LOCKING:-FALSE}"
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
fi

over_grid() { run_until_warned "$FUNGI_PYTHON" -m fungi run-elements "$@"; }
over_landmarks() { run_until_warned "$FUNGI_PYTHON" -m fungi run-elements --landmarks "$@"; }
without_grid() { run_until_warned "$FUNGI_PYTHON" -m fungi "$@"; }
in_project() {
  script=$FUNGI_PROJECT/$1
  shift
  run_until_warned "$FUNGI_PYTHON" "$script" "$@"
}
# The processes connect to each other through the first node, with a port that depends on the job.
# At SIGTERM, srun kills its tasks. It passes SIGUSR1 on to its tasks, so jobs stop them with SIGUSR1. Since SLURM 22.05,
# srun does not inherit --cpus-per-task of the job, and without SRUN_CPUS_PER_TASK each process would get one core.
per_process() {
  child_signal=USR1
  if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK="${SRUN_CPUS_PER_TASK:-$SLURM_CPUS_PER_TASK}"
  fi
  export MASTER_ADDR="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"
  export MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
  export FUNGI_JOB_REQUEUES=1
  run_until_warned srun --kill-on-bad-exit=1 sh -c \
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"' sh "$FUNGI_PYTHON" -m fungi "$@"
}

# Run a command in the background, because a shell handles signals only while it waits. Finished blocks are always
# kept. USR1 is the warning before the time limit: the command is stopped and the job is queued again. Background
# commands ignore Ctrl-C, so INT is passed on as TERM. The HUP of a closed terminal is passed on as TERM, too.
run_until_warned() {
  echo "== $(date '+%F %T') job ${SLURM_JOB_ID:-none} on ${SLURMD_NODENAME:-$(uname -n)}, restart ${SLURM_RESTART_COUNT:-0}"
  child='' warned='' signalled=''
  trap 'warned=1 signalled=1; kill -"${child_signal:-TERM}" "$child" 2> /dev/null' USR1
  trap 'signalled=1; kill -"${child_signal:-TERM}" "$child" 2> /dev/null' TERM INT HUP
  "$@" &
  child=$!
  wait "$child"
  status=$?
  while [ -n "$signalled" ] && [ "$status" -gt 128 ]; do # the signal has interrupted `wait`
    signalled=''
    wait "$child"
    status=$?
  done
  if [ "$status" -eq 137 ]; then
    echo "killed by signal 9. If nobody sent this signal, the job was out of memory" >&2
  elif [ "$status" -gt 128 ] && [ "$status" -ne 130 ]; then
    echo "killed by signal $((status - 128))" >&2
  fi
  if [ -n "$warned" ] && [ "$status" -ne 0 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    put_back_into_queue
  fi
  exit "$status"
}

put_back_into_queue() {
  restarts=${SLURM_RESTART_COUNT:-0} limit=${FUNGI_MAX_RESTARTS:-20}
  if [ "$restarts" -lt "$limit" ]; then
    echo "out of time: back into the queue, to go on from the last finished block" >&2
    scontrol requeue "$SLURM_JOB_ID" || true
  else
    echo "out of time, and not queued again: $restarts restarts, of at most $limit (FUNGI_MAX_RESTARTS)." \
      "Use more shards, or more --time" >&2
  fi
}
