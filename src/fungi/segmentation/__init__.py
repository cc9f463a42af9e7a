"""Retrieval-based segmentation: images and masks -> a bank of patches -> nearest neighbours -> mIoU."""
