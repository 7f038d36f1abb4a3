"""What detectors share: batches of objects, tiles, result files."""
