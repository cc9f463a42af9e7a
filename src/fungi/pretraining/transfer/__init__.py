"""Evaluation of a pretrained transformer on other tasks (spec udi 7).

features -> evaluate                         scores of frozen features
classifier, augmented_view -> fine_tuning    the whole network trained on labels
propagate_labels, attention_maps             objects of a video, pictures of the attention
"""
