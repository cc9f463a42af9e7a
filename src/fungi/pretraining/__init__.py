"""Training of vision transformers: what runs of every kind share, pretraining with UDI, and scores of the result.

processes, batch_plan, schedules, run_files    the loop that runs of every kind share
tokens                                         a transformer run block by block
udi/                                           images -> a checkpoint
transfer/                                      a checkpoint -> scores, fine-tuned networks, pictures
"""
