// What an op on CPUs is made of: vectors, matrix products, threads.
//
// The products are GotoBLAS's inner kernel (Goto and van de Geijn, https://doi.org/10.1145/1356052.1356053): a block of
// the result stays in registers, and the right factor is packed to be read in order.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

// ------------------------------------------------------------------------------------------------------- vectors

#if defined(__AVX512F__)  // 6 x 4 sums, 4 values and one factor: 29 of the 32 registers
constexpr int kLanes = 16, kVectors = 4;
#elif defined(__AVX__)  // 6 x 2, 2 and 1: 15 of 16
constexpr int kLanes = 8, kVectors = 2;
#else                   // ARM; as with AVX-512
constexpr int kLanes = 4, kVectors = 4;
#endif
constexpr int kRows = 6;
constexpr int64_t kStrip = kLanes * kVectors;  // columns of a packed strip
constexpr int64_t kDepth = 128;                // rows of a strip that the first cache holds

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(float))));

inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

inline Vec all(float value) { return value - Vec{}; }  // 0 + value would be an addition: it turns -0 into 0

// Values of our own, at the start of a cache line: a vector across two lines costs two reads.
class Room {
 public:
  explicit Room(int64_t count, float value = 0) : values_(new(std::align_val_t(64)) float[count]) {
    std::fill_n(values_.get(), count, value);
  }
  float* at(int64_t index) const { return values_.get() + index; }

 private:
  struct Free {
    void operator()(float* values) const { ::operator delete[](values, std::align_val_t(64)); }
  };
  std::unique_ptr<float[], Free> values_;
};

inline float sum_of(Vec v) {
  float sum = 0;
  for (int i = 0; i < kLanes; i++) sum += v[i];
  return sum;
}

// e^x to 2e-7, for x up to 88; 0 below -80; NaN stays NaN. Range reduction and polynomial of Cephes' expf.
inline Vec exp_of(Vec x) {
  const Vec low = all(-80), bounded = x < low ? low : x;
  const Vec shifted = bounded * 1.44269504088896341f + 12582912.f;  // 1.5 * 2^23: leaves the power in the last bits
  const Vec power = shifted - 12582912.f;
  const Vec r = bounded - power * 0.693359375f + power * 2.12194440e-4f;
  Vec p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.f;
  const Vec e = (Vec)((Ints)p + ((Ints)shifted << 23));
  return x < low ? Vec{} : e;
}

// ------------------------------------------------------------------------------------------------------ products

// out[R, V vectors] (+)= left[R, depth] strip[depth, V vectors]; left's rows and columns lie anywhere.
template <int R, int V>
inline __attribute__((always_inline)) void multiply_block(int64_t depth, const float* left, int64_t row_step,
                                                          int64_t step, const float* strip, float* out,
                                                          int64_t out_step, bool adds) {
  Vec sums[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
    for (int v = 0; v < V; v++) sums[i][v] = adds ? load(out + i * out_step + v * kLanes) : Vec{};
  for (int64_t k = 0; k < depth; k++) {
    Vec right[V];
    for (int v = 0; v < V; v++) right[v] = load(strip + (k * V + v) * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      const Vec factor = all(left[i * row_step + k * step]);
      for (int v = 0; v < V; v++) sums[i][v] += factor * right[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
    for (int v = 0; v < V; v++) store(out + i * out_step + v * kLanes, sums[i][v]);
}

template <int V>
void multiply_strip(int64_t rows, int64_t depth, const float* left, int64_t row_step, int64_t step, const float* strip,
                    float* out, int64_t out_step, bool adds) {
  const auto block = [&](int64_t first, auto count) {
    multiply_block<decltype(count)::value, V>(depth, left + first * row_step, row_step, step, strip,
                                              out + first * out_step, out_step, adds);
  };
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) block(i, std::integral_constant<int, kRows>());
  switch (rows - i) {
    case 5: return block(i, std::integral_constant<int, 5>());
    case 4: return block(i, std::integral_constant<int, 4>());
    case 3: return block(i, std::integral_constant<int, 3>());
    case 2: return block(i, std::integral_constant<int, 2>());
    case 1: return block(i, std::integral_constant<int, 1>());
  }
}

inline int64_t width_of_strip(int64_t columns_left) { return columns_left >= kStrip ? kStrip : kLanes; }

// Writes value(row, column), vectors of a right factor [depth, columns], strip by strip as `multiply` reads them.
template <class Value>
inline void pack(int64_t depth, int64_t columns, float* to, Value value) {
  for (int64_t first = 0, width; first < columns; first += width) {
    width = width_of_strip(columns - first);
    for (int64_t k = 0; k < depth; k++)
      for (int64_t c = first; c < first + width; c += kLanes, to += kLanes) store(to, value(k, c));
  }
}

// out[rows, columns] (+)= left[rows, depth] packed[depth, columns]; columns is a multiple of kLanes.
void multiply(int64_t rows, int64_t columns, int64_t depth, const float* left, int64_t row_step, int64_t step,
              const float* packed, float* out, int64_t out_step, bool adds) {
  for (int64_t first = 0, width; first < columns; first += width) {
    width = width_of_strip(columns - first);
    const auto of_strip = width == kStrip ? multiply_strip<kVectors> : multiply_strip<1>;
    for (int64_t k = 0; k == 0 || k < depth; k += kDepth)  // once at least: a sum of nothing is 0
      of_strip(rows, std::min(kDepth, depth - k), left + k * step, row_step, step, packed + first * depth + k * width,
               out + first, out_step, adds || k);
  }
}

// ------------------------------------------------------------------------------------------------------- threads

// Numbers too small for a normal float count as 0, in this thread: with them a product takes a hundred times as long.
class NoDenormals {
#if defined(__SSE__)
 public:
  NoDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~NoDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

// work(thread, part) for all parts, each by the thread that is free. Threads that the system does not give are done
// without.
template <class Work>
void in_parallel(int64_t threads, int64_t parts, Work work) {
  std::atomic<int64_t> next{0};
  const auto run = [&](int64_t thread) {
    [[maybe_unused]] NoDenormals here;
    for (int64_t part; (part = next++) < parts;) work(thread, part);
  };
  std::vector<std::thread> others;
  try {
    for (int64_t t = 1; t < std::min(threads, parts); t++) others.emplace_back(run, t);
  } catch (const std::exception&) {
  }
  run(0);
  for (auto& other : others) other.join();
}

}  // namespace
