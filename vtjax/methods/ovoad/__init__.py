"""OV-OAD: open-vocabulary online action detection trained from text (Zhao et al., NeurIPS 2024; papers/ovoad.md)."""
