#!/bin/sh
# Python of the image, for jobs: `export CONTAINER_IMAGE=/path/to/fungi.sif FUNGI_PYTHON=$PWD/jobs/container/python.sh`.
#
# --nv shows the GPU. Bound, each under its own path so that paths in settings, logs and progress files mean the same
# inside and outside: the current folder, the code (FUNGI_PROJECT), features and datasets (FUNGI_ROOT, FUNGI_DATA_DIR) and
# the caches of weights (HF_HOME, TORCH_HOME), as far as they are set; $HOME is bound by Apptainer itself. More folders,
# separated by commas, go into Apptainer's own APPTAINER_BIND.
: "${CONTAINER_IMAGE:?set CONTAINER_IMAGE to the image that was built from jobs/container/fungi.def}"
binds=''
for folder in "$PWD" "${FUNGI_PROJECT:-}" "${FUNGI_ROOT:-}" "${FUNGI_DATA_DIR:-}" "${HF_HOME:-}" "${TORCH_HOME:-}"; do
  [ -z "$folder" ] || [ ! -d "$folder" ] || binds="${binds:+$binds,}$(cd "$folder" && pwd)"
done
exec apptainer exec --nv --bind "$binds" --pwd "$PWD" "$CONTAINER_IMAGE" python "$@"
