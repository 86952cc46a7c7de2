/* Before and after the model: pixels to the input tensor, output tensor to an embedding, two embeddings to a decision.
   Needs face_model.h, which mcu/tflite_2_c.py writes, and the C library. */
#ifndef FACE_H
#define FACE_H

#include <stdint.h>

#include "face_model.h"

/* rgb: FACE_HEIGHT rows of FACE_WIDTH pixels R, G, B, 0..255, of a face aligned to the five points of face_template.
   input: the input tensor, FACE_INPUT_SIZE values. */
void face_preprocess(const uint8_t *rgb, face_input_t *input);

/* output: the output tensor, FACE_EMBEDDING_SIZE values. embedding: of unit L2 norm.
   Returns the norm before; 0 means that the model gave no embedding, and `embedding` is all zeros. */
float face_postprocess(const face_output_t *output, float *embedding);

/* Squared L2 distance of two embeddings, 0 (same) to 4 (opposite). */
float face_distance(const float *a, const float *b);

/* The image of the self test, FACE_INPUT_SIZE values as of a face. Feed it once at the start: */
void face_self_test_image(uint8_t *rgb);

/* Cosine of the output tensor for that image to the one of the TFLite Micro kernels on a PC. Below
   FACE_SELF_TEST_MIN_COSINE the model is fed or computed wrongly. *same_bits: whether every bit is the same. */
float face_self_test(const face_output_t *output, int *same_bits);

/* 1 if the distance is at most FACE_THRESHOLD: the same person. */
int face_is_same(const float *a, const float *b);

#endif
