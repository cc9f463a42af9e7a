"""UDI: pretraining of a vision transformer, from images to a checkpoint that every stage takes (spec udi).

boxes -> sampling -> views -> batches        what the networks see
network, layers                              what they compute
losses -> learner                            what is asked of them
optimisation, training                       how they get there
processes, checkpoints                       who takes part, and what is left when it ends, or is ended
"""
