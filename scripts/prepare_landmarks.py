"""Prepare the revisited Oxford and Paris landmarks (4,993 + 6,322 database images, 70 queries each): unpack, verify.

    kaggle datasets download -p downloads qiubit/roxfordparis
    python scripts/prepare_landmarks.py --archives downloads --data-dir data

In place of roxfordparis.zip, downloads/ may hold the official oxbuild_images*.tgz, paris_1*.tgz and paris_2*.tgz with
gnd_roxford5k.pkl and gnd_rparis6k.pkl. Makes data/retrieval-landmarks/{roxford5k,rparis6k}. A folder that is there
already is left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("oxford-landmarks", "paris-landmarks", description=__doc__))
