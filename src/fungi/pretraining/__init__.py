"""Train vision transformers: shared parts of the training loops, pretraining with UDI, evaluation of checkpoints.

processes, batch_plan, schedules, run_files, epochs    shared parts of the training loops
tokens                                                 forward pass of a transformer, block by block
udi/                                                   images -> a checkpoint
transfer/                                              a checkpoint -> scores, fine-tuned networks, pictures
dense/                                                 a checkpoint -> detection and segmentation
"""
