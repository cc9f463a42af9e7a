"""Prepare Oxford-IIIT Pet (37 classes, 3,680 + 3,669 images, 0.8 GB): unpack, verify.

    wget -P downloads https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz
    wget -P downloads https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz
    python scripts/prepare_pets.py --archives downloads --data-dir data

Makes data/pets/{images,annotations}. A folder that is there already is left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("pets", description=__doc__))
