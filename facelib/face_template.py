"""The five points that every aligned crop has in the same places: ArcFace's template."""

# Landmarks of the 112x112 crop, pixels (x, y): left eye, right eye, nose, left and right mouth corner.
# Source: InsightFace, python-package/insightface/utils/face_align.py.
TEMPLATE_112 = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
