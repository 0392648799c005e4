"""Named evaluation protocols: every result carries its protocol, item count, chance level and confidence interval."""
