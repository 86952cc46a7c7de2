"""Recognition of photos: two are compared (1:1), or one is searched in a gallery (1:N); and of video, in video/."""
