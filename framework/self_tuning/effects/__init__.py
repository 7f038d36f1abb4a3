"""The places where hyperparameters can act, one file each."""
