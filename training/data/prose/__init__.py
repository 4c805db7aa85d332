"""What training images show, and captions of it in people's own words, English and Chinese."""
