"""ESP-DL for the ESP32-S3 and ESP32-P4: quantisation by esp-ppq. The scripts are in esp/."""
