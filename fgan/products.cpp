// The float32 matrix products of a compiled graph on the CPU.
//
// ATen gives them to MKL. On an AMD EPYC those of an MLP's step take MKL 1.4 times as long as
// oneDNN's micro-kernel, which PyTorch has for its attention and which multiplies one tile: here
// it is called for all tiles of a product. It wants both matrices row by row. Of one that lies
// otherwise, parts are copied; or, where examples are fewer than a layer's weights, the result is
// computed turned and they are copied.
//
// Each number is summed in one order, whatever the number of threads.
//
// Every library has this compiled in, and calls fgan_mm_out in place of aoti_torch_cpu_mm_out;
// bmm likewise. What does not fit, or would not gain, goes on to ATen.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>

extern "C" {
AOTITorchError aoti_torch_cpu_mm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
AOTITorchError aoti_torch_cpu_bmm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
AOTITorchError fgan_mm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
AOTITorchError fgan_bmm_out(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle);
}

#ifdef __x86_64__
#include <xmmintrin.h>

namespace at {
int get_num_threads();
namespace native::cpublas {
// c [m, n] = a [m, k] b [k, n], or c += a b; lda and so on: from a row to the next.
// Of ATen/native/CPUBlas.h, which takes a second to read. Null where torch does not have it.
__attribute__((weak)) void brgemm(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb,
                                  int64_t ldc, bool add, const float* a, const float* b, float* c,
                                  bool packed);
}  // namespace native::cpublas
}  // namespace at

namespace {

using at::native::cpublas::brgemm;

constexpr int64_t fewest_operations = 1 << 18;  // below, MKL is as fast
// On that processor half or twice of these takes the same, or up to a tenth more.
constexpr int64_t tile_rows = 16;
constexpr int64_t most_deep = 1024;  // terms of a sum that a tile adds at once
constexpr int64_t panel = 1 << 17;   // numbers of b used by tile after tile: half of a core's cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Matrix {
  float* data;
  int64_t rows, columns, down, right;  // the last two: from a number to the one below, beside it

  Matrix turned() const { return {data, columns, rows, right, down}; }
  bool by_rows() const { return right == 1 && down >= columns; }
  bool by_columns() const { return down == 1 && right >= rows; }
};

using Buffer = std::unique_ptr<float, decltype(&std::free)>;

Buffer allocate(int64_t numbers) {
  const int64_t line = 16;  // numbers of one cache line
  void* data = std::aligned_alloc(64, ceil_div(numbers, line) * line * sizeof(float));
  return {static_cast<float*>(data), &std::free};
}

// to[j][i] = from[i][j]
void turn(const float* from, int64_t from_down, float* to, int64_t to_down, int64_t rows,
          int64_t columns) {
  for (int64_t i = 0; i < rows; i += 4) {
    for (int64_t j = 0; j < columns; j += 4) {
      const float* f = from + i * from_down + j;
      float* t = to + j * to_down + i;
      if (i + 4 <= rows && j + 4 <= columns) {
        __m128 a = _mm_loadu_ps(f), b = _mm_loadu_ps(f + from_down);
        __m128 c = _mm_loadu_ps(f + 2 * from_down), d = _mm_loadu_ps(f + 3 * from_down);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(t, a), _mm_storeu_ps(t + to_down, b);
        _mm_storeu_ps(t + 2 * to_down, c), _mm_storeu_ps(t + 3 * to_down, d);
      } else {
        for (int64_t r = 0; r < std::min<int64_t>(4, rows - i); ++r)
          for (int64_t s = 0; s < std::min<int64_t>(4, columns - j); ++s)
            t[s * to_down + r] = f[r * from_down + s];
      }
    }
  }
}

// c = a b, each by rows or by columns.
void multiply(Matrix a, Matrix b, Matrix c, int threads) {
  const int64_t copied = b.rows * b.columns, copied_else = a.rows * a.columns + c.rows * c.columns;
  if (!b.by_rows() && (!a.by_rows() || copied > copied_else)) {  // as b^T a^T = c^T
    std::swap(a, b);
    a = a.turned(), b = b.turned(), c = c.turned();
  }
  const int64_t m = c.rows, n = c.columns, k = a.columns;
  const int64_t deep = ceil_div(k, ceil_div(k, most_deep));
  const bool turn_a = !a.by_rows(), turn_b = !b.by_rows(), turn_c = !c.by_rows();
  const Buffer part_a = allocate(turn_a ? m * deep : 0);
  const Buffer part_b = allocate(turn_b ? deep * n : 0);
  const Buffer whole_c = allocate(turn_c ? m * n : 0);
  float* to = turn_c ? whole_c.get() : c.data;
  const int64_t to_down = turn_c ? n : c.down;

  // Tiles as wide as a panel, but as many for each thread.
  const int64_t high = ceil_div(m, tile_rows);
  const int64_t shares = high < 8 * threads ? threads / std::gcd<int64_t>(threads, high) : 1;
  int64_t wide = std::min(std::max<int64_t>(64, panel / deep), ceil_div(n, shares));
  wide = ceil_div(ceil_div(n, ceil_div(n, wide)), 16) * 16;
  const int64_t across = ceil_div(n, wide);

#pragma omp parallel num_threads(threads)
  for (int64_t first = 0; first < k; first += deep) {
    const int64_t depth = std::min(deep, k - first);
    if (turn_a) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < m; i += tile_rows)
        turn(a.data + i + first * a.right, a.right, part_a.get() + i * deep, deep, depth,
             std::min(tile_rows, m - i));
    }
    if (turn_b) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < depth; i += tile_rows)
        turn(b.data + first + i, b.right, part_b.get() + i * n, n, n,
             std::min(tile_rows, depth - i));
    }
    const float* left = turn_a ? part_a.get() : a.data + first;
    const float* right = turn_b ? part_b.get() : b.data + first * b.down;
    const int64_t left_down = turn_a ? deep : a.down, right_down = turn_b ? n : b.down;
#pragma omp for collapse(2) schedule(static)
    for (int64_t y = 0; y < across; ++y) {
      for (int64_t x = 0; x < high; ++x) {
        const int64_t i = x * tile_rows, j = y * wide;
        const int64_t rows = std::min(tile_rows, m - i), columns = std::min(wide, n - j);
        float* tile = to + i * to_down + j;
        brgemm(rows, columns, depth, left_down, right_down, to_down, first > 0,
               left + i * left_down, right + j, tile, false);
        if (turn_c && first + depth == k)
          turn(tile, to_down, c.data + j * c.right + i, c.right, rows, columns);
      }
    }
  }
}

// Whether this processor and this torch have the micro-kernel.
bool usable() {
  static const bool works = [] {
    if (!brgemm || !__builtin_cpu_supports("avx512f")) return false;
    float one = 1, two = 2, product = 0;
    try {
      brgemm(1, 1, 1, 1, 1, 1, false, &one, &two, &product, false);
    } catch (...) {
      return false;
    }
    return product == 2;
  }();
  return works;
}

bool pays(const Matrix& a, const Matrix& b, const Matrix& c) {
  const bool plain = (a.by_rows() || a.by_columns()) && (b.by_rows() || b.by_columns());
  return plain && c.by_rows() && std::min(c.rows, c.columns) >= 8 &&
         2 * c.rows * c.columns * a.columns >= fewest_operations;
}

// The last two dimensions of a tensor of float32, and of the one before its length and stride.
bool read(AtenTensorHandle tensor, int64_t dims, Matrix& matrix, int64_t& length, int64_t& step) {
  int32_t type;
  int64_t *sizes, *strides;
  void* data;
  if (aoti_torch_get_dtype(tensor, &type) || aoti_torch_get_data_ptr(tensor, &data) ||
      aoti_torch_get_sizes(tensor, &sizes) || aoti_torch_get_strides(tensor, &strides) ||
      type != aoti_torch_dtype_float32())
    return false;
  length = dims == 3 ? sizes[0] : 1, step = dims == 3 ? strides[0] : 0;
  sizes += dims - 2, strides += dims - 2;
  matrix = {static_cast<float*>(data), sizes[0], sizes[1], strides[0], strides[1]};
  return true;
}

bool multiplied(AtenTensorHandle out, AtenTensorHandle left, AtenTensorHandle right, int64_t dims) {
  Matrix a, b, c;
  int64_t length, step_a, step_b, step_c;
  if (!usable() || !read(left, dims, a, length, step_a) || !read(right, dims, b, length, step_b) ||
      !read(out, dims, c, length, step_c) || !pays(a, b, c))
    return false;
  const auto one = [&](int64_t i, int threads) {
    Matrix ai = a, bi = b, ci = c;
    ai.data += i * step_a, bi.data += i * step_b, ci.data += i * step_c;
    multiply(ai, bi, ci, threads);
  };
  const int threads = at::get_num_threads();
  AtenRecordFunctionHandle seen;  // by the profiler
  aoti_record_function_start(dims == 3 ? "fgan::bmm" : "fgan::mm", nullptr, nullptr, 0, &seen);
  if (length < threads) {
    for (int64_t i = 0; i < length; ++i) one(i, threads);
  } else {  // a thread for each
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < length; ++i) one(i, 1);
  }
  aoti_record_function_end(seen);
  return true;
}

}  // namespace

#else
namespace {
bool multiplied(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle, int64_t) { return false; }
}  // namespace
#endif

AOTITorchError fgan_mm_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b) {
  return multiplied(out, a, b, 2) ? AOTI_TORCH_SUCCESS : aoti_torch_cpu_mm_out(out, a, b);
}

AOTITorchError fgan_bmm_out(AtenTensorHandle out, AtenTensorHandle a, AtenTensorHandle b) {
  return multiplied(out, a, b, 3) ? AOTI_TORCH_SUCCESS : aoti_torch_cpu_bmm_out(out, a, b);
}
