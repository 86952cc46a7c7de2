/* See face.h. */
#include "face.h"

#include <math.h>
#include <string.h>

void face_preprocess(const uint8_t *rgb, face_input_t *input) {
  for (int i = 0; i < FACE_INPUT_SIZE; i++) {
    /* As NumPy's rint and the test scripts: a half goes to the even number. */
    float step = rintf((float)rgb[i] / FACE_INPUT_SCALE + (float)FACE_INPUT_ZERO_POINT);
    step = step < FACE_INPUT_MIN ? FACE_INPUT_MIN : step;
    input[i] = (face_input_t)(step > FACE_INPUT_MAX ? FACE_INPUT_MAX : step);
  }
}

float face_postprocess(const face_output_t *output, float *embedding) {
  float sum = 0.0f;
  for (int i = 0; i < FACE_EMBEDDING_SIZE; i++) {
    embedding[i] = (float)(output[i] - FACE_OUTPUT_ZERO_POINT) * FACE_OUTPUT_SCALE;
    sum += embedding[i] * embedding[i];
  }
  const float norm = sqrtf(sum);
  for (int i = 0; i < FACE_EMBEDDING_SIZE && norm > 0.0f; i++) {
    embedding[i] /= norm;
  }
  return norm;
}

float face_distance(const float *a, const float *b) {
  float sum = 0.0f;
  for (int i = 0; i < FACE_EMBEDDING_SIZE; i++) {
    sum += (a[i] - b[i]) * (a[i] - b[i]);
  }
  return sum;
}

int face_is_same(const float *a, const float *b) {
  return face_distance(a, b) <= FACE_THRESHOLD;
}

void face_self_test_image(uint8_t *rgb) {
  for (int i = 0; i < FACE_INPUT_SIZE; i++) {
    const int x = i / 3 % FACE_WIDTH, y = i / 3 / FACE_WIDTH;
    rgb[i] = (uint8_t)((i % 3 == 0 ? 2 * x : i % 3 == 1 ? 2 * y : 255 - x - y) & 255);
  }
}

float face_self_test(const face_output_t *output, int *same_bits) {
  static const face_output_t expected[FACE_EMBEDDING_SIZE] = FACE_SELF_TEST_OUTPUT;
  float dot = 0.0f, a = 0.0f, b = 0.0f;
  for (int i = 0; i < FACE_EMBEDDING_SIZE; i++) {
    const float u = (float)(output[i] - FACE_OUTPUT_ZERO_POINT), v = (float)(expected[i] - FACE_OUTPUT_ZERO_POINT);
    dot += u * v;
    a += u * u;
    b += v * v;
  }
  *same_bits = memcmp(output, expected, sizeof expected) == 0;
  return a > 0.0f && b > 0.0f ? dot / sqrtf(a * b) : 0.0f;
}
