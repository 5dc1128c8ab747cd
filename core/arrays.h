// Arrays that come from numpy and go back to it.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace polystage {

namespace nb = nanobind;

template <typename T>
using Input = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using InputRows = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Output = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

/// Hands a vector to numpy, which then owns it.
template <typename T>
Output<T> to_numpy(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Output<T>(kept->data(), {kept->size()}, owner);
}

/// Refuses an array whose length differs: everything after relies on it.
template <typename Array>
void check_size(const Array& array, std::size_t wanted, const char* what) {
    if (array.size() != wanted) throw std::invalid_argument(what);
}

/// Refuses values outside [low, high).
template <typename Array>
void check_range(const Array& array, std::int64_t low, std::int64_t high, const char* what) {
    for (std::size_t i = 0; i < array.size(); ++i) {
        const auto value = static_cast<std::int64_t>(array.data()[i]);
        if (value < low || value >= high) throw std::out_of_range(what);
    }
}

/// Refuses row starts that do not grow from 0 to `count`.
inline void check_starts(const Input<std::int64_t>& start, std::size_t rows, std::size_t count) {
    check_size(start, rows + 1, "one start per row and the end");
    std::int64_t before = 0;
    for (std::size_t i = 0; i <= rows; ++i) {
        if (start.data()[i] < before || (i == 0 && start.data()[i] != 0))
            throw std::out_of_range("starts must grow from 0");
        before = start.data()[i];
    }
    if (before != static_cast<std::int64_t>(count)) throw std::out_of_range("the last start");
}

}  // namespace polystage
