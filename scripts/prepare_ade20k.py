"""Prepare ADE20K scene parsing (150 classes, 20,210 + 2,000 images, 1 GB): unpack, verify.

    wget -P downloads http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip
    python scripts/prepare_ade20k.py --archives downloads --data-dir data

Makes data/ade20k/{images,annotations}/{training,validation}. A folder that is there already is left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("ade20k", description=__doc__))
