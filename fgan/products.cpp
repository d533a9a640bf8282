// The float32 matrix products of a compiled graph on the CPU.
//
// ATen gives them to MKL. On an AMD EPYC that takes longer (benchmarks/products.py) than oneDNN's
// micro-kernel, which PyTorch has for its attention and which computes one tile: here it is called
// for all tiles of a product. It wants row-major matrices: of another, panels are packed. Where it
// is the second that must be packed, and it has more numbers than the others, as a layer's weights
// beside few examples, the product is computed transposed, and the examples are packed.
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
constexpr int64_t most_depth = 1024;  // terms of a sum that a tile adds at once
constexpr int64_t panel = 1 << 17;   // numbers of b used by tile after tile: half of a core's cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Matrix {
  float* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
  bool row_major() const { return column_stride == 1 && row_stride >= columns; }
  bool column_major() const { return row_stride == 1 && column_stride >= rows; }
};

using Buffer = std::unique_ptr<float, decltype(&std::free)>;

Buffer allocate(int64_t numbers) {
  const int64_t line = 16;  // numbers of one cache line
  void* data = std::aligned_alloc(64, ceil_div(numbers, line) * line * sizeof(float));
  return {static_cast<float*>(data), &std::free};
}

// to[j][i] = from[i][j]
void transpose(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows,
               int64_t columns) {
  for (int64_t i = 0; i < rows; i += 4) {
    for (int64_t j = 0; j < columns; j += 4) {
      const float* f = from + i * from_stride + j;
      float* t = to + j * to_stride + i;
      if (i + 4 <= rows && j + 4 <= columns) {
        __m128 a = _mm_loadu_ps(f), b = _mm_loadu_ps(f + from_stride);
        __m128 c = _mm_loadu_ps(f + 2 * from_stride), d = _mm_loadu_ps(f + 3 * from_stride);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_storeu_ps(t, a), _mm_storeu_ps(t + to_stride, b);
        _mm_storeu_ps(t + 2 * to_stride, c), _mm_storeu_ps(t + 3 * to_stride, d);
      } else {
        for (int64_t r = 0; r < std::min<int64_t>(4, rows - i); ++r)
          for (int64_t s = 0; s < std::min<int64_t>(4, columns - j); ++s)
            t[s * to_stride + r] = f[r * from_stride + s];
      }
    }
  }
}

// c = a b, each row-major or column-major. False when there is no memory for what must be packed.
bool multiply(Matrix a, Matrix b, Matrix c, int threads) {
  const int64_t examples = a.rows * a.columns + c.rows * c.columns, weights = b.rows * b.columns;
  if (!b.row_major() && (!a.row_major() || examples < weights)) {  // as c^T = b^T a^T
    std::swap(a, b);
    a = a.transposed(), b = b.transposed(), c = c.transposed();
  }
  const int64_t m = c.rows, n = c.columns, k = a.columns;
  const int64_t block = ceil_div(k, ceil_div(k, most_depth));
  const bool pack_a = !a.row_major(), pack_b = !b.row_major(), unpack_c = !c.row_major();
  const Buffer packed_a = allocate(pack_a ? m * block : 0);
  const Buffer packed_b = allocate(pack_b ? block * n : 0);
  const Buffer packed_c = allocate(unpack_c ? m * n : 0);
  if ((pack_a && !packed_a) || (pack_b && !packed_b) || (unpack_c && !packed_c)) return false;
  float* result = unpack_c ? packed_c.get() : c.data;
  const int64_t ldc = unpack_c ? n : c.row_stride;

  // Tiles as wide as a panel, but as many for each thread.
  const int64_t row_tiles = ceil_div(m, tile_rows);
  const bool few = row_tiles < 8 * threads;
  const int64_t shares = few ? threads / std::gcd<int64_t>(threads, row_tiles) : 1;
  int64_t width = std::min(std::max<int64_t>(64, panel / block), ceil_div(n, shares));
  width = ceil_div(ceil_div(n, ceil_div(n, width)), 16) * 16;
  const int64_t column_tiles = ceil_div(n, width);

#pragma omp parallel num_threads(threads)
  for (int64_t first = 0; first < k; first += block) {
    const int64_t depth = std::min(block, k - first);
    if (pack_a) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < m; i += tile_rows)
        transpose(a.data + i + first * a.column_stride, a.column_stride,
                  packed_a.get() + i * block, block, depth, std::min(tile_rows, m - i));
    }
    if (pack_b) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < depth; i += tile_rows)
        transpose(b.data + first + i, b.column_stride, packed_b.get() + i * n, n, n,
                  std::min(tile_rows, depth - i));
    }
    const float* left = pack_a ? packed_a.get() : a.data + first;
    const float* right = pack_b ? packed_b.get() : b.data + first * b.row_stride;
    const int64_t lda = pack_a ? block : a.row_stride, ldb = pack_b ? n : b.row_stride;
#pragma omp for collapse(2) schedule(static)
    for (int64_t y = 0; y < column_tiles; ++y) {
      for (int64_t x = 0; x < row_tiles; ++x) {
        const int64_t i = x * tile_rows, j = y * width;
        const int64_t rows = std::min(tile_rows, m - i), columns = std::min(width, n - j);
        float* tile = result + i * ldc + j;
        brgemm(rows, columns, depth, lda, ldb, ldc, first > 0, left + i * lda, right + j, tile,
               false);
        if (unpack_c && first + depth == k)
          transpose(tile, ldc, c.data + j * c.column_stride + i, c.column_stride, rows, columns);
      }
    }
  }
  return true;
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
  const bool plain = (a.row_major() || a.column_major()) && (b.row_major() || b.column_major());
  return plain && c.row_major() && std::min(c.rows, c.columns) >= 8 &&
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
    return multiply(ai, bi, ci, threads);
  };
  bool done = true;
  const int threads = at::get_num_threads();
  AtenRecordFunctionHandle seen;  // by the profiler
  aoti_record_function_start(dims == 3 ? "fgan::bmm" : "fgan::mm", nullptr, nullptr, 0, &seen);
  if (length < threads) {
    for (int64_t i = 0; i < length; ++i) done &= one(i, threads);
  } else {  // a thread for each
#pragma omp parallel for schedule(static) num_threads(threads) reduction(&& : done)
    for (int64_t i = 0; i < length; ++i) done = one(i, 1) && done;
  }
  aoti_record_function_end(seen);
  return done;
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
