"""Prepare Pascal VOC 2012 segmentation (21 classes, 10,582 + 1,449 images, 2.2 GB): unpack, verify.

    wget -P downloads http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar
    python scripts/prepare_pascal_voc.py --archives downloads --data-dir data

The augmented training set is not on that server: put SegmentationClassAug.zip and trainaug.txt of any of its copies
into the same folder. Makes data/pascal-voc/{images,SegmentationClass,SegmentationClassAug,sets}. A folder that is there
already is left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("pascal-voc", description=__doc__))
