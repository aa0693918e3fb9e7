"""What a training leaves and inference loads."""
