"""Evaluate a pretrained transformer on other tasks (spec udi 7).

The modules of each evaluation:

features, evaluate                         score frozen features with kNN, a linear probe and low-shot regression
classifier, augmented_view, fine_tuning    train the full network on labels
propagate_labels                           segment videos
attention_maps                             write pictures of the attention
"""
