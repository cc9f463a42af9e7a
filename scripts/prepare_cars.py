"""Prepare Stanford Cars (196 classes, 8,144 + 8,041 images, 2 GB): unpack, arrange, verify. The original site is gone.

    kaggle datasets download -p downloads jessicali9530/stanford-cars-dataset
    wget -P downloads https://github.com/pytorch/vision/files/11644847/car_devkit.tgz
    # by hand into downloads/: cars_test_annos_withlabels.mat, from
    # https://www.kaggle.com/code/subhangaupadhaya/pytorch-stanfordcars-classification/input
    python scripts/prepare_cars.py --archives downloads --data-dir data

Makes data/cars/stanford_cars/{cars_train,cars_test,devkit} in torchvision's layout. A folder that is there already is
left as it is.
"""

from fungi.data.preparation import run_script

if __name__ == "__main__":
    raise SystemExit(run_script("cars", description=__doc__))
