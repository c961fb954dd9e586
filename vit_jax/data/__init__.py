"""Sources of labelled images, and the feeds that bring them to the devices."""
