"""UDI: pretraining of a vision transformer, from images to a checkpoint that every stage takes (spec udi).

boxes -> sampling -> views -> batches        what the networks see
network, layers                              what they compute
losses -> learner                            what they are trained for
optimisation, training                       how their parameters move
checkpoints, layouts, export_backbone        what a run leaves, for this program and for others
"""
