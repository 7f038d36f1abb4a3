"""Names of the parameters that a response layer has beside those of the ordinary layer."""

RESPONSE = "_response"
"""End of the name of a response, after the name of the parameter that responds."""

GATES = {"_gate": 0, "_column_gate": 1}
"""Ends of the names of gates, and the axis of the parameter along which they lie."""
