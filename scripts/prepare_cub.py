"""Prepare CUB-200-2011 (200 classes, 5,994 + 5,794 images, 1.2 GB): unpack, verify.

    wget -P downloads https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz
    python scripts/prepare_cub.py --archives downloads --data-dir data

Makes data/cub/CUB_200_2011. A folder that is there already is left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("cub-200", description=__doc__))
