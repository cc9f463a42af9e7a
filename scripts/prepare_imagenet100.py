"""Prepare ImageNet-100 (100 classes, 130,000 + 5,000 images, 17 GB): unpack, verify.

    kaggle datasets download -p downloads ambityga/imagenet100
    python scripts/prepare_imagenet100.py --archives downloads --data-dir data

Makes data/imagenet100/{train.X1,...,train.X4,val.X,Labels.json}. What is there already is left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("imagenet-100", description=__doc__))
