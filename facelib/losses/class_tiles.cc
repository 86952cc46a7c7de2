// The softmax over many classes on a CPU, tile by tile of them: what facelib/losses/blockwise_softmax.py computes op by op, in one
// pass over the centres forward and one backward. facelib/losses/native_softmax.py says what goes in and out.
//
// Logits and their sums are taken as in FlashAttention (Dao et al., https://arxiv.org/abs/2205.14135, algorithm 1):
// each part of the classes keeps the highest logit so far, and what it has summed shrinks when a higher one comes.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <new>
#include <vector>

#include "cpu_kernels.h"
#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

namespace {

constexpr int64_t kTile = 126;  // classes at a time, a multiple of kRows: two products while they are cached
constexpr float kBeside = 200;  // how far the own class is put below any other logit, as in class_blocks.py

// ------------------------------------------------------------------------------------------- forward and backward

struct Sizes {
  int64_t faces, size, classes, threads;
  int64_t padded() const { return (faces + kLanes - 1) / kLanes * kLanes; }
  int64_t tiles() const { return (classes + kTile - 1) / kTile; }
  // Not of the threads, while these are few: the same sums on any machine.
  int64_t parts() const { return std::min(tiles(), std::max<int64_t>(16, 2 * threads)); }
  // work(thread, part, tile, its first class, its classes), the tiles of a part in order.
  template <class Work>
  void for_tiles(Work work) const {
    in_parallel(threads, parts(), [&](int64_t thread, int64_t part) {
      for (int64_t tile = tiles() * part / parts(); tile < tiles() * (part + 1) / parts(); tile++)
        work(thread, part, tile, tile * kTile, std::min(kTile, classes - tile * kTile));
    });
  }
};

struct Faces {
  const float* x;      // [B, D], unit rows
  const int64_t* own;  // [B]; -1 where it is not here
};

// What the gradient takes from forward. P is B, padded to vectors.
struct Kept {
  float* shares;   // [n, P]: exp(logit - highest of its part so far) / |w|, 0 at the own class
  float* highest;  // [tiles, P]: that highest logit
  float* inverse;  // [n]: 1 / |w|
  float* log_sum;  // [B]: ln of the sum over the other classes of exp(logit)
};

float inverse_norm(const float* row, int64_t size) {
  Vec sum = {};
  for (int64_t k = 0; k < size; k += kLanes) sum += load(row + k) * load(row + k);
  return 1 / std::max(std::sqrt(sum_of(sum)), 1e-6f);
}

// Logits of a tile -> shares, in place; `highest` [P] and `sums` [P] brought up to date. Factors [P] of what was summed
// before.
void take_softmax(const Sizes& of, int64_t rows, const float* inverse, float* tile, float* highest, float* sums,
                  float* factors) {
  const int64_t padded = of.padded();
  for (int64_t b = 0; b < padded; b += kLanes) {
    const Vec before = load(highest + b);
    Vec now = before;
    for (int64_t j = 0; j < rows; j++) {
      const Vec logit = load(tile + j * padded + b);
      now = now > logit ? now : logit;
    }
    const Vec factor = exp_of(before - now);
    Vec sum = load(sums + b) * factor;
    for (int64_t j = 0; j < rows; j++) {
      const Vec share = exp_of(load(tile + j * padded + b) - now);
      sum += share;
      store(tile + j * padded + b, share * inverse[j]);
    }
    store(highest + b, now);
    store(sums + b, sum);
    store(factors + b, factor);
  }
}

// highest [B]: logit of another class.   pull [B, D]: the other classes' unit centres, weighted by their softmax.
void forward(const Sizes& of, float scale, const Faces& faces, const float* centres, const Kept& kept, float* highest,
             float* pull) {
  const int64_t size = of.size, padded = of.padded(), parts = of.parts();
  const Room x(size * padded), tops(parts * padded, -FLT_MAX), sums(parts * padded), pulls(parts * padded * size);
  const Room packed_tiles(of.threads * kTile * size), factors_of(of.threads * padded);
  pack(size, padded, x.at(0), [&](int64_t k, int64_t b) {
    Vec v = {};
    for (int i = 0; i < kLanes && b + i < of.faces; i++) v[i] = scale * faces.x[(b + i) * size + k];
    return v;
  });
  of.for_tiles([&](int64_t thread, int64_t part, int64_t number, int64_t first, int64_t rows) {
    const float* rows_of = centres + first * size;
    float *tile = kept.shares + first * padded, *inverse = kept.inverse + first;
    float *top = tops.at(part * padded), *sum = pulls.at(part * padded * size);
    float *packed = packed_tiles.at(thread * kTile * size), *factors = factors_of.at(thread * padded);
    multiply(rows, padded, size, rows_of, size, 1, x.at(0), tile, padded, false);
    for (int64_t j = 0; j < rows; j++) {
      inverse[j] = inverse_norm(rows_of + j * size, size);
      for (int64_t b = 0; b < padded; b += kLanes)
        store(tile + j * padded + b, load(tile + j * padded + b) * inverse[j]);
    }
    for (int64_t b = 0; b < of.faces; b++) {
      const int64_t j = faces.own[b] - first;
      if (j >= 0 && j < rows) tile[j * padded + b] = -scale - kBeside;
    }
    take_softmax(of, rows, inverse, tile, top, sums.at(part * padded), factors);
    std::copy_n(top, padded, kept.highest + number * padded);
    for (int64_t b = 0; b < of.faces; b++)
      if (factors[b] != 1)
        for (int64_t k = 0; k < size; k += kLanes) store(sum + b * size + k, load(sum + b * size + k) * factors[b]);
    pack(rows, size, packed, [&](int64_t j, int64_t k) { return load(rows_of + j * size + k); });
    multiply(padded, size, rows, tile, 1, padded, packed, sum, size, true);
  });
  in_parallel(of.threads, of.faces, [&](int64_t, int64_t b) {
    float top = -FLT_MAX, sum = 0;
    for (int64_t part = 0; part < parts; part++) top = std::max(top, *tops.at(part * padded + b));
    std::fill_n(pull + b * size, size, 0.f);
    for (int64_t part = 0; part < parts; part++) {
      const float factor = std::exp(*tops.at(part * padded + b) - top), *from = pulls.at((part * padded + b) * size);
      sum += factor * *sums.at(part * padded + b);
      for (int64_t k = 0; k < size; k++) pull[b * size + k] += factor * from[k];
    }
    for (int64_t k = 0; k < size; k++) pull[b * size + k] /= sum;
    highest[b] = top;
    kept.log_sum[b] = top + std::log(sum);
  });
}

// weights [B]: the gradient of log_sum, times the scale.   of_own [B, D]: added to each own centre's.   out [n, D].
void backward(const Sizes& of, const Faces& faces, const float* centres, const Kept& kept, const float* weights,
              const float* of_own, float* out) {
  const int64_t size = of.size, padded = of.padded();
  const Room packed_faces(of.threads * padded * size), factors_of(of.threads * padded);
  of.for_tiles([&](int64_t thread, int64_t, int64_t number, int64_t first, int64_t rows) {
    float *x = packed_faces.at(thread * padded * size), *factors = factors_of.at(thread * padded);
    for (int64_t b = 0; b < of.faces; b++)
      factors[b] = weights[b] * std::exp(kept.highest[number * padded + b] - kept.log_sum[b]);
    pack(of.faces, size, x, [&](int64_t b, int64_t k) { return load(faces.x + b * size + k) * factors[b]; });
    multiply(rows, size, of.faces, kept.shares + first * padded, padded, 1, x, out + first * size, size, false);
    for (int64_t j = first; j < first + rows; j++) {  // less the part along the centre
      const float* centre = centres + j * size;
      float* row = out + j * size;
      Vec along = {};
      for (int64_t k = 0; k < size; k += kLanes) along += load(row + k) * load(centre + k);
      const float factor = sum_of(along) * kept.inverse[j] * kept.inverse[j];
      for (int64_t k = 0; k < size; k += kLanes) store(row + k, load(row + k) - load(centre + k) * factor);
    }
    for (int64_t b = 0; b < of.faces; b++)
      if (faces.own[b] >= first && faces.own[b] < first + rows)
        for (int64_t k = 0; k < size; k++) out[faces.own[b] * size + k] += of_own[b * size + k];
  });
}

// ------------------------------------------------------------------------------------------- TensorFlow's two ops

struct Deleter {
  void operator()(TF_Tensor* tensor) const { TF_DeleteTensor(tensor); }
  void operator()(TF_Status* status) const { TF_DeleteStatus(status); }
};
using Tensor = std::unique_ptr<TF_Tensor, Deleter>;
using Status = std::unique_ptr<TF_Status, Deleter>;

struct Failed : std::exception {};  // the status says how

// The tensors of a call: they live until its end.
class Call {
 public:
  Call(TF_OpKernelContext* context, TF_Status* status) : context_(context), status_(status) {}

  template <class T = float>
  T* input(int number) {
    return data<T>(in(number));
  }

  float* output(int number, std::initializer_list<int64_t> shape) {
    int64_t count = 1;
    for (int64_t length : shape) count *= length;
    return data<float>(hold(
        TF_AllocateOutput(context_, number, TF_FLOAT, shape.begin(), shape.size(), count * sizeof(float), status_)));
  }

  Sizes sizes(int64_t threads) {
    TF_Tensor *x = in(0), *centres = in(1);
    return {TF_Dim(x, 0), TF_Dim(x, 1), TF_Dim(centres, 0), threads};
  }

 private:
  TF_Tensor* in(int number) {
    TF_Tensor* tensor = nullptr;
    TF_GetInput(context_, number, &tensor, status_);
    return hold(tensor);
  }

  TF_Tensor* hold(TF_Tensor* tensor) {
    tensors_.emplace_back(tensor);
    if (TF_GetCode(status_) != TF_OK) throw Failed();
    return tensor;
  }

  template <class T>
  static T* data(TF_Tensor* tensor) {
    return static_cast<T*>(TF_TensorData(tensor));
  }

  TF_OpKernelContext* context_;
  TF_Status* status_;
  std::vector<Tensor> tensors_;
};

void* read_threads(TF_OpKernelConstruction* context) {
  Status status(TF_NewStatus());
  int64_t threads = 1;
  TF_OpKernelConstruction_GetAttrInt64(context, "threads", &threads, status.get());
  if (TF_GetCode(status.get()) != TF_OK) TF_OpKernelConstruction_Failure(context, status.get());
  return new int64_t(std::clamp<int64_t>(threads, 1, 1024));
}

template <void (*run)(Call&, const Sizes&)>
void compute(void* threads, TF_OpKernelContext* context) {
  Status status(TF_NewStatus());
  try {
    Call call(context, status.get());
    const Sizes of = call.sizes(*static_cast<int64_t*>(threads));
    if (of.size % kLanes) TF_SetStatus(status.get(), TF_INVALID_ARGUMENT, "embeddings are not whole vectors");
    if (TF_GetCode(status.get()) == TF_OK) run(call, of);
  } catch (const Failed&) {
  } catch (const std::bad_alloc&) {
    TF_SetStatus(status.get(), TF_RESOURCE_EXHAUSTED, "no memory for a step's values of the classes");
  }
  if (TF_GetCode(status.get()) != TF_OK) TF_OpKernelContext_Failure(context, status.get());
}

void run_forward(Call& call, const Sizes& of) {
  const Faces faces = {call.input(0), call.input<int64_t>(2)};
  const Kept kept = {call.output(3, {of.classes, of.padded()}), call.output(4, {of.tiles(), of.padded()}),
                     call.output(5, {of.classes}), call.output(0, {of.faces})};
  forward(of, *call.input(3), faces, call.input(1), kept, call.output(1, {of.faces}),
          call.output(2, {of.faces, of.size}));
}

void run_backward(Call& call, const Sizes& of) {
  const Faces faces = {call.input(0), call.input<int64_t>(2)};
  const Kept kept = {call.input(3), call.input(4), call.input(5), call.input(6)};
  backward(of, faces, call.input(1), kept, call.input(7), call.input(8), call.output(0, {of.classes, of.size}));
}

void add_op(const char* name, std::initializer_list<const char*> inputs, std::initializer_list<const char*> outputs,
            void (*compute_op)(void*, TF_OpKernelContext*)) {
  Status status(TF_NewStatus());
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(op, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(op, output);
  TF_OpDefinitionBuilderAddAttr(op, "threads: int");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, &TF_ShapeInferenceContextSetUnknownShape);
  TF_RegisterOpDefinition(op, status.get());
  TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", &read_threads, compute_op,
                                                 [](void* threads) { delete static_cast<int64_t*>(threads); });
  TF_RegisterKernelBuilder(name, kernel, status.get());
}

// When the library is loaded.
[[maybe_unused]] const bool is_registered = [] {
  add_op("ClassTiles", {"x: float", "centres: float", "own: int64", "scale: float"},
         {"log_sum: float", "highest: float", "pull: float", "shares: float", "tops: float", "inverse: float"},
         &compute<run_forward>);
  add_op("ClassTilesGradient",
         {"x: float", "centres: float", "own: int64", "shares: float", "tops: float", "inverse: float",
          "log_sum: float", "weights: float", "of_own: float"},
         {"by_centres: float"}, &compute<run_backward>);
  return true;
}();

}  // namespace
