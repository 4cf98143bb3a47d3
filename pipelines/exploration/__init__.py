"""The data set report: counts folded file by file, what they say, and the page that shows them."""
