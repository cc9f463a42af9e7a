"""Pretrain a vision transformer with UDI, from images to a checkpoint that every stage can read (spec udi).

boxes -> sampling -> views -> batches        input of the networks
network, layers                              forward pass
losses -> learner                            training objective and training step
optimisation, training                       parameter updates and training loop
checkpoints, layouts, export_backbone        output files, for this program and for others
"""
