"""UDI: pretraining of a vision transformer, from images to a checkpoint that every stage takes (spec udi).

boxes -> sampling -> views -> batches        what the networks see
network, srs, head                           what they compute
targets, losses -> step                      what is asked of them
schedules, optimisation, training            how they get there
checkpoints, interruption                    what is left when it ends, or is ended
"""
