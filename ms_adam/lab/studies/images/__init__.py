"""Trainings on images: study has the config, the runs and their rows, claims are the claims."""
