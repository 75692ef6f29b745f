"""How a mask is learned: schedules, logits, the work of a step and its passes over memory."""
