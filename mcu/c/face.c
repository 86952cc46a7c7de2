/* See face.h. */
#include "face.h"

#include <math.h>

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
