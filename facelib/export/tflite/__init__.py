"""TFLite: a graph to float, fp16, dynamic or int8, and which layers int8 costs most. The script is pb_2_tflite.py."""
