"""Prepare ImageNet-1k (1,000 classes, 1,281,167 + 50,000 images, 150 GB): unpack, verify.

    # into downloads/, with an account of image-net.org: ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar,
    # ILSVRC2012_img_val.tar
    python scripts/prepare_imagenet.py --archives downloads --data-dir data

Makes data/imagenet-1k/{train,val,meta.bin} in torchvision's layout. What is there already is left as it is; so
an existing ImageNet of that layout needs only a link: ln -s /path/to/imagenet data/imagenet-1k
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("imagenet-1k", description=__doc__))
