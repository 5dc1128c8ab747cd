// The Python module polystage._core: twins of the longest loops of the simulator and the allocator.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "allocation_first_fit.h"
#include "allocation_search.h"
#include "conflicts.h"
#include "races.h"
#include "timeline.h"

NB_MODULE(_core, m) {
    using namespace polystage;
    m.doc() = "Compiled twins of the longest loops of the simulator and the allocator.";
    nb::class_<Regions>(m, "Regions")
        .def(nb::init<Input<std::uint8_t>, Input<std::int32_t>, Input<std::int64_t>,
                      Input<std::int64_t>, Input<std::int32_t>, Input<std::int32_t>,
                      Input<std::int32_t>, InputRows<std::int32_t>, Input<std::int32_t>>());
    nb::class_<TraceColumns>(m, "TraceColumns")
        .def(nb::init<Input<std::uint8_t>, Input<std::uint8_t>, Input<double>, Input<double>,
                      Input<double>, Input<double>, Input<std::uint8_t>, Input<std::int32_t>,
                      Input<std::int64_t>, Input<std::int64_t>, Input<std::int64_t>,
                      std::vector<bool>>());
    m.def("dependences", &dependences);
    m.def("stuck", &stuck);
    m.def("find_races", &find_races);
    m.def("run_timeline", &run_timeline);
    m.def("place_in_order", &place_in_order);
    m.def("search_addresses", &search_addresses);
}
