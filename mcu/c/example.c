/* The two steps around the model as a program for a PC:

     gcc -std=c99 -Wall -Werror example.c face.c face_model.c -lm -o example
     ./example input < FACE.rgb > INPUT        pixels -> input tensor, as bytes
     ./example compare < TWO_OUTPUTS           two output tensors -> distance and decision
     ./example ramps > INPUT                   the input tensor of the self test
     ./example self-test < OUTPUT              its output tensor -> bit for bit, or its cosine; 1 below the lowest

   Between them a microcontroller runs TFLite Micro on face_model, see docs/mcu.md. */
#include <stdio.h>
#include <string.h>

#include "face.h"

static uint8_t rgb[FACE_INPUT_SIZE];
static face_input_t input[FACE_INPUT_SIZE];

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (memcmp(face_model + 4, "TFL3", 4) != 0) {
    fprintf(stderr, "face_model is no TFLite model\n");
    return 1;
  }
  if (strcmp(what, "input") == 0) {
    if (fread(rgb, 1, sizeof rgb, stdin) != sizeof rgb) {
      fprintf(stderr, "a face has %d bytes\n", FACE_INPUT_SIZE);
      return 1;
    }
    face_preprocess(rgb, input);
    return fwrite(input, sizeof *input, FACE_INPUT_SIZE, stdout) == FACE_INPUT_SIZE ? 0 : 1;
  }
  if (strcmp(what, "ramps") == 0) {
    face_self_test_image(rgb);
    face_preprocess(rgb, input);
    return fwrite(input, sizeof *input, FACE_INPUT_SIZE, stdout) == FACE_INPUT_SIZE ? 0 : 1;
  }
  if (strcmp(what, "self-test") == 0) {
    face_output_t output[FACE_EMBEDDING_SIZE];
    if (fread(output, 1, sizeof output, stdin) != sizeof output) {
      fprintf(stderr, "an output tensor has %d bytes\n", (int)sizeof output);
      return 1;
    }
    int same_bits;
    const float cosine = face_self_test(output, &same_bits);
    printf("cosine %.4f%s\n", (double)cosine, same_bits ? ", bit for bit" : "");
    return cosine >= FACE_SELF_TEST_MIN_COSINE ? 0 : 1;
  }
  if (strcmp(what, "compare") == 0) {
    face_output_t output[2][FACE_EMBEDDING_SIZE];
    float embedding[2][FACE_EMBEDDING_SIZE];
    if (fread(output, 1, sizeof output, stdin) != sizeof output) {
      fprintf(stderr, "two output tensors have %d bytes\n", (int)sizeof output);
      return 1;
    }
    for (int i = 0; i < 2; i++) {
      printf("norm %.6f\n", (double)face_postprocess(output[i], embedding[i]));
    }
    printf("distance %.6f\n", (double)face_distance(embedding[0], embedding[1]));
    printf("%s\n", face_is_same(embedding[0], embedding[1]) ? "same person" : "different people");
    return 0;
  }
  fprintf(stderr, "usage: example input|compare|ramps|self-test\n");
  return 2;
}
