"""Training, one readable file per kind: :func:`medhpc.train.msd.train_msd`."""
