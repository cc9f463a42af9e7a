"""`oxford-landmarks`: revisited Oxford (roxford5k), 4993 database images, 70 queries (see `formats.landmarks`)."""

from fungi.data.base import DATASETS
from fungi.data.formats.landmarks import Landmarks, landmarks_spec

LANDMARKS = Landmarks("oxford-landmarks", "roxford5k")
ground_truth = LANDMARKS.ground_truth
DATASETS.register("oxford-landmarks", landmarks_spec(LANDMARKS, title="Revisited Oxford", database=4993, queries=70))
