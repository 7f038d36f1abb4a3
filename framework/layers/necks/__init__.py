"""What stands between a backbone's levels and a detector's heads."""
