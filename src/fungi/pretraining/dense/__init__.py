"""Train dense heads on a pretrained vision transformer: detection and semantic segmentation (spec udi 7.6)."""
