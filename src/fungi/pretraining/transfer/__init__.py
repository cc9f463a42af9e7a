"""Evaluate a pretrained transformer on other tasks (spec udi 7).

features -> evaluate                         scores of frozen features
classifier, augmented_view -> fine_tuning    training of the full network on labels
propagate_labels, attention_maps             segmentation of videos, pictures of the attention
"""
