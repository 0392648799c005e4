"""CLIP on videos: contrastive video-text pretraining (CLIP, arXiv 2103.00020; CLIP4Clip, arXiv 2104.08860)."""
