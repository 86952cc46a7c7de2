"""Recognition in a video or at a camera: frames, tracks of faces, events, and the annotated video."""
