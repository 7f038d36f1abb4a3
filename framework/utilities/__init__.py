"""Files, random numbers, precision and checks that everything else uses."""
