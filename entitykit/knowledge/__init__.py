"""What is known of entities outside the text, on disk: numpy in and out."""
