"""lovasz: the IoU loss for segmentation, at the price of cross-entropy."""
