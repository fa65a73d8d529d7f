"""Where thinc meets torch: the only package that knows both."""
