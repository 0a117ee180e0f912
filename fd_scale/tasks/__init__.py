"""What a run is for: each task puts the parts together and says what a batch means."""
