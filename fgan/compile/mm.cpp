// fgan::mm, float32 matrix products on the CPU by oneDNN's micro-kernel.
//
// ATen gives such products to MKL, which leaves half of an AMD processor's vector unit unused.
// oneDNN's micro-kernel, which PyTorch has for its attention, computes one tile: here it is called
// for all tiles of a product. It wants row-major matrices; panels of other matrices are packed.
// Where the second matrix must be packed and has more numbers than the others, as a layer's weights
// have beside few examples, the product is computed transposed, and the examples are packed.
//
// Many small products at once, those of a population's members, have kernels of their own, which are
// chosen by the products' form: a call of oneDNN's for each tile would take as long as its sums, and
// most of its vector would be empty where a layer has two outputs. They read the first matrix by
// numbers, so that it is never packed.
//
// Each number is summed in one order, whatever the number of threads.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <tuple>

namespace at::native::cpublas {
// c [m, n] = a [m, k] b [k, n], or c += a b; lda, ldb and ldc are the distances from one row to the
// next. It is declared in ATen/native/CPUBlas.h, which takes a second to read.
void brgemm(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc, bool add,
            const float* a, const float* b, float* c, bool packed);
}  // namespace at::native::cpublas

namespace {

using torch::stable::Tensor;

// On AMD's Zen 4, half or twice these numbers take the same time, or up to a tenth more.
constexpr int64_t tile_rows = 16;
constexpr int64_t most_depth = 1024;  // terms of a sum that a tile adds at once
constexpr int64_t panel = 1 << 17;    // numbers of b used by tile after tile: half a core's cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Matrix {
  float* data;
  int64_t rows, columns, row_stride, column_stride;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
  bool row_major() const { return column_stride == 1 && row_stride >= columns; }
  Matrix at(int64_t offset) const { return {data + offset, rows, columns, row_stride, column_stride}; }
};

using Buffer = std::unique_ptr<float, decltype(&std::free)>;

Buffer allocate(int64_t numbers) {
  void* data = std::aligned_alloc(64, ceil_div(numbers, 16) * 16 * sizeof(float));
  if (numbers && !data) throw std::bad_alloc();
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

// c = a b
void multiply(Matrix a, Matrix b, Matrix c, int64_t threads) {
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
  float* result = unpack_c ? packed_c.get() : c.data;
  const int64_t ldc = unpack_c ? n : c.row_stride;

  // Tiles are as wide as a panel, unless narrower ones give each thread as many as the others.
  const int64_t row_tiles = ceil_div(m, tile_rows);
  const int64_t shares = row_tiles < 8 * threads ? threads / std::gcd(threads, row_tiles) : 1;
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
        at::native::cpublas::brgemm(rows, columns, depth, lda, ldb, ldc, first > 0, left + i * lda,
                                    right + j, tile, false);
        if (unpack_c && first + depth == k)
          transpose(tile, ldc, c.data + j * c.column_stride + i, c.column_stride, rows, columns);
      }
    }
  }
}

typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t lanes = 16;
constexpr int64_t most_small = 128;  // rows, columns and terms of a small product

Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
void store(float* to, Vector x) { *reinterpret_cast<Vector*>(to) = x; }

// R rows and 16 C columns of c = a b, for a row-major b and c.
template <int R, int C>
void tile(const Matrix& a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  Vector sums[R][C] = {};
  for (int64_t k = 0; k < a.columns; ++k) {
    Vector row[C];
    for (int j = 0; j < C; ++j) row[j] = load(b + k * ldb + j * lanes);
    for (int i = 0; i < R; ++i) {
      const float x = a.data[i * a.row_stride + k * a.column_stride];
      for (int j = 0; j < C; ++j) sums[i][j] += x * row[j];
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < C; ++j) store(c + i * ldc + j * lanes, sums[i][j]);
}

// All rows of 16 C columns, R at a time. The last are computed with some before them, which come out
// the same again.
template <int R, int C>
void rows(const Matrix& a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  for (int64_t i = 0; i < a.rows; i += R) {
    const int64_t first = std::min(i, a.rows - R);
    tile<R, C>(a.at(first * a.row_stride), b, ldb, c + first * ldc, ldc);
  }
}

template <int C>
void columns(const Matrix& a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  if (a.rows >= 8) return rows<8, C>(a, b, ldb, c, ldc);
  if (a.rows >= 4) return rows<4, C>(a, b, ldb, c, ldc);
  if (a.rows >= 2) return rows<2, C>(a, b, ldb, c, ldc);
  return rows<1, C>(a, b, ldb, c, ldc);
}

// c = a b with n >= 16 columns, for a row-major b and c. The last columns are computed as the last
// rows are.
void by_columns(const Matrix& a, const float* b, int64_t ldb, float* c, int64_t n) {
  int64_t j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) columns<2>(a, b + j, ldb, c + j, n);
  for (; j < n; j += lanes) {
    const int64_t first = std::min(j, n - lanes);
    columns<1>(a, b + first, ldb, c + first, n);
  }
}

float sum_of(Vector x) {
  float parts[lanes];
  store(parts, x);
  for (int64_t half = lanes / 2; half; half /= 2)
    for (int64_t i = 0; i < half; ++i) parts[i] += parts[i + half];
  return parts[0];
}

// The sum of k products of neighbours.
float dot(const float* a, const float* b, int64_t k) {
  Vector sums = {};
  int64_t p = 0;
  for (; p + lanes <= k; p += lanes) sums += load(a + p) * load(b + p);
  float sum = sum_of(sums);
  for (; p < k; ++p) sum += a[p] * b[p];
  return sum;
}

// c = a b for a row-major c, with room for the numbers of b or of c.
void multiply_small(const Matrix& a, const Matrix& b, const Matrix& c, float* room) {
  const int64_t m = c.rows, n = c.columns, k = a.columns;
  if (n >= lanes && b.row_major()) {
    by_columns(a, b.data, b.row_stride, c.data, n);
  } else if (n >= lanes) {
    transpose(b.data, b.column_stride, room, n, n, k);
    by_columns(a, room, n, c.data, n);
  } else if (m >= lanes && a.transposed().row_major()) {  // as c^T = b^T a^T
    by_columns(b.transposed(), a.data, a.column_stride, room, m);
    transpose(room, m, c.data, n, n, m);
  } else if (a.row_major()) {
    for (int64_t j = 0; j < n; ++j)
      for (int64_t p = 0; p < k; ++p)
        room[j * k + p] = b.data[p * b.row_stride + j * b.column_stride];
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j)
        c.data[i * n + j] = dot(a.data + i * a.row_stride, room + j * k, k);
  } else {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (int64_t p = 0; p < k; ++p)
          sum += a.data[i * a.row_stride + p * a.column_stride] *
                 b.data[p * b.row_stride + j * b.column_stride];
        c.data[i * n + j] = sum;
      }
  }
}

Matrix matrix(const Tensor& t) {
  const int64_t rows = t.dim() - 2, columns = t.dim() - 1;
  return {static_cast<float*>(t.data_ptr()), t.size(rows), t.size(columns), t.stride(rows),
          t.stride(columns)};
}

// [m, k] and [k, n], or [N, m, k] and [N, k, n]; each matrix row-major or column-major.
Tensor mm(Tensor left, Tensor right) {
  const Matrix a = matrix(left), b = matrix(right);
  const bool many = left.dim() == 3;
  const int64_t length = many ? left.size(0) : 1;
  Tensor out = many ? new_empty(left, {length, a.rows, b.columns})
                    : new_empty(left, {a.rows, b.columns});
  const Matrix c = matrix(out);
  const int64_t threads = torch::stable::get_num_threads();
  const auto of = [&](int64_t i) {
    return std::tuple{a.at(many ? i * left.stride(0) : 0), b.at(many ? i * right.stride(0) : 0),
                      c.at(i * a.rows * b.columns)};
  };
  const bool small = many && std::max({a.rows, a.columns, b.columns}) <= most_small;
  if (length < threads && !small) {
    for (int64_t i = 0; i < length; ++i) {
      const auto [x, y, z] = of(i);
      multiply(x, y, z, threads);
    }
    return out;
  }
#pragma omp parallel num_threads(threads)
  {  // each product has a thread
    const Buffer room = allocate(small ? std::max(a.rows, a.columns) * b.columns : 0);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < length; ++i) {
      const auto [x, y, z] = of(i);
      small ? multiply_small(x, y, z, room.get()) : multiply(x, y, z, 1);
    }
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fgan, CPU, m) { m.impl("mm", TORCH_BOX(&mm)); }
