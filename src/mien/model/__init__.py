"""The classifier: a ViTMAE encoder with every patch visible and a linear head on [CLS], or a network of timm."""
