"""How studies run: configs, worker processes, progress, results, checkpoints.

study           what `reproduce` runs, and what a run is given
config          the sections of a config, and how its YAML file is read
processes       worker processes, started and listened to
worker          the worker's side: it takes a job and reports events
checkpoints     files from which a stopped training goes on
progress        what people see
results         the JSON that is written
environment     versions and machine
"""
