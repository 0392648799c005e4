"""LLaMA fine-tuned on texts with LoRA: the language tower of PiTe alone."""
