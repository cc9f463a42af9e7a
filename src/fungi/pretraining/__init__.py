"""Training of vision transformers: shared parts of the training loop, pretraining with UDI, evaluation of checkpoints.

processes, batch_plan, schedules, run_files    shared parts of the training loop
tokens                                         forward pass of a transformer, block by block
udi/                                           images -> a checkpoint
transfer/                                      a checkpoint -> scores, fine-tuned networks, pictures
"""
