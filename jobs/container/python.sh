#!/bin/sh
# Run Python of the image in jobs: `export CONTAINER_IMAGE=/path/to/fungi.sif FUNGI_PYTHON=$PWD/jobs/container/python.sh`.
#
# --nv makes the GPU visible. Each folder is bound to its own path, so that paths in settings, logs and progress files
# are the same inside and outside: the current folder, the code (FUNGI_PROJECT), features and datasets (FUNGI_ROOT,
# FUNGI_DATA_DIR) and the caches of weights (HF_HOME, TORCH_HOME), if these variables are set. Apptainer itself binds
# $HOME. For other folders, set APPTAINER_BIND of Apptainer to their paths, separated by commas.
: "${CONTAINER_IMAGE:?set CONTAINER_IMAGE to the image that was built from jobs/container/fungi.def}"
binds=''
for folder in "$PWD" "${FUNGI_PROJECT:-}" "${FUNGI_ROOT:-}" "${FUNGI_DATA_DIR:-}" "${HF_HOME:-}" "${TORCH_HOME:-}"; do
  [ -z "$folder" ] || [ ! -d "$folder" ] || binds="${binds:+$binds,}$(cd "$folder" && pwd)"
done
exec apptainer exec --nv --bind "$binds" --pwd "$PWD" "$CONTAINER_IMAGE" python "$@"
